// pgx and its pool.
package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/pgxpool"
)

const (
	insert  = "INSERT INTO customers (id, name, email, ssn, region) VALUES"
	refused = "SELECT employee FROM salaries"
	short   = 3
	gone    = 6 * time.Second
)

var ctx = context.Background()

func feature(name string, run func()) {
	defer func() {
		if wrong := recover(); wrong != nil {
			words := strings.Split(fmt.Sprint(wrong), "\n")[0]
			fmt.Printf("no\t%s\t%s\n", name, words)
		} else {
			fmt.Printf("ok\t%s\n", name)
		}
	}()
	run()
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func same(found, expected interface{}) {
	if fmt.Sprint(found) != fmt.Sprint(expected) {
		panic(fmt.Sprintf("%v is not %v", found, expected))
	}
}

func fails(code string, err error) *pgconn.PgError {
	var wrong *pgconn.PgError
	if !errors.As(err, &wrong) {
		panic(fmt.Sprintf("no answer of the server: %v", err))
	}
	same(wrong.Code, code)
	return wrong
}

func token(seconds int) string {
	form := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {os.Getenv("BULLA_CLIENT")},
		"client_secret": {"secret"}, "expires_in": {fmt.Sprint(seconds)},
	}
	answer, err := http.PostForm(os.Getenv("BULLA_TOKENS"), form)
	must(err)
	defer answer.Body.Close()
	var said struct {
		AccessToken string `json:"access_token"`
	}
	must(json.NewDecoder(answer.Body).Decode(&said))
	return said.AccessToken
}

func dial(change func(*pgx.ConnConfig)) *pgx.Conn {
	config, err := pgx.ParseConfig("")
	must(err)
	if change != nil {
		change(config)
	}
	c, err := pgx.ConnectConfig(ctx, config)
	must(err)
	return c
}

func one(c *pgx.Conn, sql string, args ...interface{}) (value interface{}) {
	must(c.QueryRow(ctx, sql, args...).Scan(&value))
	return
}

func try(c *pgx.Conn, sql string, args ...interface{}) error {
	_, err := c.Exec(ctx, sql, args...)
	return err
}

func main() {
	fmt.Printf("version\t%s\n", os.Getenv("BULLA_PGX"))
	notices := []string{}
	c := dial(func(config *pgx.ConnConfig) {
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, n.Message) }
	})

	feature("connect", func() {
		same(one(c, "SELECT 1 + 1"), 2)
		_, secure := c.PgConn().Conn().(*tls.Conn)
		same(secure, true)
	})

	feature("prepared", func() {
		for _, n := range []int{7, 8, 9, 7, 8, 9} {
			same(one(c, "SELECT id FROM customers WHERE id = $1", n), n)
		}
		_, err := c.Prepare(ctx, "by name", "SELECT id FROM customers WHERE name = $1")
		must(err)
		same(one(c, "by name", "Ada"), 7)
		must(c.Deallocate(ctx, "by name"))
		plain := dial(func(config *pgx.ConnConfig) { config.PreferSimpleProtocol = true })
		same(one(plain, "SELECT id FROM customers WHERE id = $1", 7), 7)
		plain.Close(ctx)
	})

	feature("binary", func() {
		var i8 int64
		var raw []byte
		var at time.Time
		var ints []*int32
		var text string
		row := c.QueryRow(ctx, "SELECT i8, raw, tz, ints, t FROM every_type WHERE id = $1", 1)
		must(row.Scan(&i8, &raw, &at, &ints, &text))
		same(i8, int64(-9223372036854775808))
		same(raw, []byte{0, 255, 16})
		same(at.UTC().Format(time.RFC3339), "2026-11-23T14:05:00Z")
		same([]interface{}{*ints[0], *ints[1], ints[2] == nil, text}, "[1 2 true tëxt]")
	})

	feature("transactions", func() {
		must(c.BeginFunc(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, insert+" (101, 'a', 'a101', '', 'EU')")
			must(err)
			wrong := tx.BeginFunc(ctx, func(inner pgx.Tx) error {
				_, err := inner.Exec(ctx, "SELECT 1/0")
				return err
			})
			fails("22012", wrong)
			return nil
		}))
		tx, err := c.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadWrite})
		must(err)
		_, err = tx.Exec(ctx, insert+" (102, 'b', 'b102', '', 'EU')")
		must(err)
		must(tx.Rollback(ctx))
		same(one(c, "SELECT count(*) FROM customers WHERE id > 100"), 1)
	})

	feature("errors", func() {
		same(fails("42703", try(c, "SELECT nothing FROM customers")).Position, 8)
		wrong := fails("23505", try(c, insert+" (7, 'a', 'a', '', 'EU')"))
		same(wrong.ConstraintName, "customers_pkey")
		must(try(c, "DROP TABLE IF EXISTS nothing"))
		same(notices, `[table "nothing" does not exist, skipping]`)
	})

	feature("notify", func() {
		listener := dial(nil)
		must(try(listener, "LISTEN pgx"))
		must(try(c, "SELECT pg_notify('pgx', 'one')"))
		until, stop := context.WithTimeout(ctx, 10*time.Second)
		defer stop()
		heard, err := listener.WaitForNotification(until)
		must(err)
		same(heard.Payload, "one")
		listener.Close(ctx)
	})

	feature("copy", func() {
		must(try(c, "CREATE TABLE copied (a int, b text)"))
		rows := pgx.CopyFromSlice(20000, func(n int) ([]interface{}, error) {
			return []interface{}{n, fmt.Sprintf("row %d", n)}, nil
		})
		count, err := c.CopyFrom(ctx, pgx.Identifier{"copied"}, []string{"a", "b"}, rows)
		must(err)
		same(count, 20000)
		var out strings.Builder
		_, err = c.PgConn().CopyTo(ctx, &out, "COPY copied TO STDOUT")
		must(err)
		same(strings.Count(out.String(), "\n"), 20000)
	})

	feature("large", func() {
		rows, err := c.Query(ctx, "SELECT n, repeat('x', 200) FROM generate_series(1, 100000) n")
		must(err)
		sum := 0
		for rows.Next() {
			var n int
			var text string
			must(rows.Scan(&n, &text))
			sum += len(text)
		}
		must(rows.Err())
		same(sum, 20000000)
	})

	feature("cancel", func() {
		sleeper := dial(nil)
		asked := make(chan error)
		go func() {
			time.Sleep(500 * time.Millisecond)
			asked <- sleeper.PgConn().CancelRequest(ctx)
		}()
		fails("57014", try(sleeper, "SELECT pg_sleep(30)"))
		must(<-asked)
		same(one(sleeper, "SELECT 1"), 1)
		sleeper.Close(ctx)
	})

	feature("refusal", func() {
		wrong := fails("42501", try(c, refused))
		same(strings.HasPrefix(wrong.Message, "refused: `SELECT` on `"), true)
		same(one(c, "SELECT 1"), 1)
		fails("42501", try(c, refused+" WHERE id = $1", 1))
		same(one(c, "SELECT 1"), 1)
	})

	feature("pipeline", func() {
		batch := &pgx.Batch{}
		for n := 0; n < 100; n++ {
			batch.Queue("INSERT INTO notes (body) VALUES ($1)", fmt.Sprintf("pgx %d", n))
		}
		batch.Queue("SELECT count(*) FROM notes WHERE body LIKE 'pgx%'")
		results := c.SendBatch(ctx, batch)
		for n := 0; n < 100; n++ {
			_, err := results.Exec()
			must(err)
		}
		var count int
		must(results.QueryRow().Scan(&count))
		same(count, 100)
		must(results.Close())
		batch = &pgx.Batch{}
		batch.Queue("INSERT INTO notes (body) VALUES ('half')")
		batch.Queue(refused)
		fails("42501", c.SendBatch(ctx, batch).Close())
		same(one(c, "SELECT count(*) FROM notes WHERE body = 'half'"), 0)
	})

	feature("expiry", func() {
		config, err := pgxpool.ParseConfig("")
		must(err)
		var count int32
		config.MaxConns = 1
		config.BeforeConnect = func(_ context.Context, wish *pgx.ConnConfig) error {
			life := 600
			if atomic.AddInt32(&count, 1) == 1 {
				life = short
			}
			wish.Password = token(life)
			return nil
		}
		pool, err := pgxpool.ConnectConfig(ctx, config)
		must(err)
		pid := func() (pid int) {
			must(pool.QueryRow(ctx, "SELECT pg_backend_pid()").Scan(&pid))
			return
		}
		first := pid()
		time.Sleep(gone)
		// pgxpool finds out on use: what was idle fails once, and is not given out again.
		var none int
		err = pool.QueryRow(ctx, "SELECT 1").Scan(&none)
		if err != nil {
			fails("57P01", err)
		}
		same(pid() != first, true)
		pool.Close()
	})

	feature("rebind", func() {
		with := func(life int) *pgx.Conn {
			return dial(func(config *pgx.ConnConfig) { config.Password = token(life) })
		}
		old := with(short)
		first := one(old, "SELECT pg_backend_pid()")
		other := with(600)
		time.Sleep(gone)
		same(one(old, "SELECT pg_backend_pid()"), first)
		old.Close(ctx)
		other.Close(ctx)
	})
}
