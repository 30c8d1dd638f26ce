// pgjdbc and HikariCP. Compiled, since pgjdbc loads the class that hands out tokens by its name.

import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.StringReader;
import java.io.StringWriter;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Arrays;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicInteger;
import org.postgresql.PGConnection;
import org.postgresql.copy.CopyManager;
import org.postgresql.plugin.AuthenticationPlugin;
import org.postgresql.plugin.AuthenticationRequestType;
import org.postgresql.util.PSQLException;

public class Jdbc {
    static final String INSERT = "INSERT INTO customers (id, name, email, ssn, region) VALUES";
    static final String REFUSED = "SELECT employee FROM salaries";
    static final int SHORT = 3, GONE = 6;
    static final AtomicInteger asked = new AtomicInteger();

    interface Trial { void run() throws Exception; }
    interface Failing { void run() throws SQLException; }

    static void feature(String name, Trial trial) {
        try {
            trial.run();
            System.out.println("ok\t" + name);
        } catch (Throwable error) {
            error.printStackTrace();
            System.out.println("no\t" + name + "\t" + error.toString().split("\n")[0]);
        }
    }

    static void same(Object found, Object expected) {
        if (!String.valueOf(found).equals(String.valueOf(expected)))
            throw new AssertionError(found + " is not " + expected);
    }

    static SQLException fails(String state, Failing failing) {
        try {
            failing.run();
        } catch (SQLException error) {
            same(error.getSQLState(), state);
            return error;
        }
        throw new AssertionError("it did not fail");
    }

    static String token(int seconds) throws Exception {
        String form = "grant_type=client_credentials&client_id=" + System.getenv("BULLA_CLIENT")
            + "&client_secret=secret&expires_in=" + seconds;
        HttpRequest request = HttpRequest.newBuilder(URI.create(System.getenv("BULLA_TOKENS")))
            .header("content-type", "application/x-www-form-urlencoded")
            .POST(HttpRequest.BodyPublishers.ofString(form)).build();
        String body = HttpClient.newHttpClient()
            .send(request, HttpResponse.BodyHandlers.ofString()).body();
        return body.replaceAll(".*\"access_token\":\"([^\"]*)\".*", "$1");
    }

    /** How pgjdbc asks for a password that changes; named in the pool's configuration. */
    public static class Tokens implements AuthenticationPlugin {
        public char[] getPassword(AuthenticationRequestType type) throws PSQLException {
            try {
                return token(asked.getAndIncrement() == 0 ? SHORT : 600).toCharArray();
            } catch (Exception error) {
                throw new RuntimeException(error);
            }
        }
    }

    static String url() {
        return "jdbc:postgresql://" + System.getenv("PGHOST") + ":" + System.getenv("PGPORT") + "/"
            + System.getenv("PGDATABASE") + "?sslmode=verify-full&sslrootcert="
            + System.getenv("PGSSLROOTCERT");
    }

    static Connection dial(String password, String... more) throws SQLException {
        Properties wish = new Properties();
        wish.setProperty("user", System.getenv("PGUSER"));
        wish.setProperty("password", password);
        for (int i = 0; i < more.length; i += 2) wish.setProperty(more[i], more[i + 1]);
        return DriverManager.getConnection(url(), wish);
    }

    static Object one(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement(); ResultSet rows = s.executeQuery(sql)) {
            rows.next();
            return rows.getObject(1);
        }
    }

    static void execute(Connection c, String sql) throws SQLException {
        try (Statement s = c.createStatement()) { s.execute(sql); }
    }

    public static void main(String[] args) throws Exception {
        String password = System.getenv("PGPASSWORD");
        Connection c = dial(password);
        String driver = c.getMetaData().getDriverVersion();
        System.out.println("version\t" + driver);

        feature("connect", () -> {
            same(one(c, "SELECT 1 + 1"), 2);
            same(c.isValid(5), true);
        });

        feature("prepared", () -> {
            // From the fifth time on pgjdbc names the statement and asks for binary results.
            try (PreparedStatement s = c.prepareStatement("SELECT id FROM customers WHERE id = ?")) {
                for (int n : new int[] {7, 8, 9, 7, 8, 9, 7, 8, 9}) {
                    s.setInt(1, n);
                    ResultSet rows = s.executeQuery();
                    rows.next();
                    same(rows.getInt(1), n);
                }
            }
            String sql = "INSERT INTO notes (body) VALUES (?)";
            try (PreparedStatement s = c.prepareStatement(sql, Statement.RETURN_GENERATED_KEYS)) {
                for (int n = 0; n < 500; n++) {
                    s.setString(1, "batch " + n);
                    s.addBatch();
                }
                same(s.executeBatch().length, 500);
            }
            same(one(c, "SELECT count(*) FROM notes WHERE body LIKE 'batch%'"), 500);
        });

        feature("binary", () -> {
            try (Connection binary = dial(password, "prepareThreshold", "-1")) {
                PreparedStatement s = binary.prepareStatement(
                    "SELECT i8, n, raw, u, ints, t, tz FROM every_type WHERE id = ?");
                s.setInt(1, 1);
                ResultSet rows = s.executeQuery();
                rows.next();
                same(rows.getLong(1), Long.MIN_VALUE);
                same(rows.getBigDecimal(2), "12345678901234567890.123");
                same(Arrays.toString(rows.getBytes(3)), "[0, -1, 16]");
                same(rows.getObject(4), "00000000-0000-4000-8000-000000000001");
                same(Arrays.toString((Object[]) rows.getArray(5).getArray()), "[1, 2, null]");
                same(rows.getString(6), "tëxt");
                same(rows.getTimestamp(7).toInstant(), "2026-11-23T14:05:00Z");
            }
        });

        feature("transactions", () -> {
            c.setAutoCommit(false);
            execute(c, INSERT + " (101, 'a', 'a101', '', 'EU')");
            Savepoint savepoint = c.setSavepoint();
            fails("22012", () -> execute(c, "SELECT 1/0"));
            fails("25P02", () -> execute(c, "SELECT 1"));
            c.rollback(savepoint);
            c.commit();
            execute(c, INSERT + " (102, 'b', 'b102', '', 'EU')");
            c.rollback();
            c.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            same(one(c, "SHOW transaction_isolation"), "serializable");
            c.commit();
            c.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            c.setAutoCommit(true);
            same(one(c, "SELECT count(*) FROM customers WHERE id > 100"), 1);
            c.setReadOnly(true);
            c.setReadOnly(false);
        });

        feature("errors", () -> {
            SQLException error = fails("42703", () -> one(c, "SELECT nothing FROM customers"));
            same(((PSQLException) error).getServerErrorMessage().getPosition(), 8);
            error = fails("23505", () -> execute(c, INSERT + " (7, 'a', 'a', '', 'EU')"));
            same(((PSQLException) error).getServerErrorMessage().getConstraint(), "customers_pkey");
            Statement s = c.createStatement();
            s.execute("DROP TABLE IF EXISTS nothing");
            same(s.getWarnings().getMessage(), "table \"nothing\" does not exist, skipping");
        });

        feature("metadata", () -> {
            ResultSet tables = c.getMetaData().getTables(null, "public", "%", new String[] {"TABLE"});
            int count = 0;
            while (tables.next()) count++;
            same(count >= 6, true);
            ResultSet columns = c.getMetaData().getColumns(null, "public", "customers", "%");
            count = 0;
            while (columns.next()) count++;
            same(count, 6);
            ResultSet keys = c.getMetaData().getImportedKeys(null, "public", "payments");
            keys.next();
            same(keys.getString("PKTABLE_NAME"), "orders");
        });

        feature("notify", () -> {
            try (Connection listener = dial(password)) {
                execute(listener, "LISTEN jdbc");
                execute(c, "NOTIFY jdbc, 'one'");
                var heard = listener.unwrap(PGConnection.class).getNotifications(10_000);
                same(heard[0].getParameter(), "one");
            }
        });

        feature("copy", () -> {
            execute(c, "CREATE TABLE copied (a int, b text)");
            StringBuilder lines = new StringBuilder();
            for (int n = 0; n < 20_000; n++) lines.append(n).append("\trow ").append(n).append('\n');
            CopyManager copy = c.unwrap(PGConnection.class).getCopyAPI();
            same(copy.copyIn("COPY copied FROM STDIN", new StringReader(lines.toString())), 20_000);
            StringWriter out = new StringWriter();
            copy.copyOut("COPY copied TO STDOUT", out);
            same(out.toString().contentEquals(lines), true);
        });

        feature("large", () -> {
            try (Statement s = c.createStatement();
                 ResultSet rows = s.executeQuery(
                     "SELECT n, repeat('x', 200) FROM generate_series(1, 100000) n")) {
                long sum = 0;
                while (rows.next()) sum += rows.getString(2).length();
                same(sum, 20_000_000);
            }
        });

        feature("cancel", () -> {
            try (Statement s = c.createStatement()) {
                s.setQueryTimeout(1);
                fails("57014", () -> s.execute("SELECT pg_sleep(30)"));
            }
            same(one(c, "SELECT 1"), 1);
        });

        feature("refusal", () -> {
            SQLException error = fails("42501", () -> one(c, REFUSED));
            same(error.getMessage().contains("refused: `SELECT` on `"), true);
            same(one(c, "SELECT 1"), 1);
            try (PreparedStatement s = c.prepareStatement(REFUSED + " WHERE id = ?")) {
                s.setInt(1, 1);
                fails("42501", s::executeQuery);
            }
            same(one(c, "SELECT 1"), 1);
        });

        feature("cursor", () -> {
            c.setAutoCommit(false);
            try (Statement s = c.createStatement()) {
                s.setFetchSize(100);
                ResultSet rows = s.executeQuery("SELECT n FROM generate_series(1, 1000) n");
                int count = 0;
                while (rows.next()) count++;
                same(count, 1000);
            }
            c.commit();
            c.setAutoCommit(true);
        });

        feature("expiry", () -> {
            HikariConfig config = new HikariConfig();
            config.setJdbcUrl(url() + "&authenticationPluginClassName=" + Tokens.class.getName());
            config.setUsername(System.getenv("PGUSER"));
            config.setMaximumPoolSize(1);
            try (HikariDataSource pool = new HikariDataSource(config)) {
                Object first;
                try (Connection pooled = pool.getConnection()) {
                    first = one(pooled, "SELECT pg_backend_pid()");
                }
                Thread.sleep(GONE * 1000);
                try (Connection pooled = pool.getConnection()) {
                    same(one(pooled, "SELECT pg_backend_pid()").equals(first), false);
                    same(one(pooled, "SELECT count(*) FROM orders"), 5);
                }
                same(asked.get() >= 2, true);
            }
        });

        feature("rebind", () -> {
            try (Connection old = dial(token(SHORT))) {
                Object first = one(old, "SELECT pg_backend_pid()");
                try (Connection other = dial(token(600))) {
                    Thread.sleep(GONE * 1000);
                    same(one(old, "SELECT pg_backend_pid()"), first);
                }
            }
        });
        c.close();
    }
}
