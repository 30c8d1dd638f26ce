"""SQLAlchemy over one of its drivers, named by BULLA_DRIVER: Core, ORM, reflection, pool, Alembic."""

import alembic
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
from bed import *
from sqlalchemy import *
from sqlalchemy import exc
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID, insert
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, relationship, selectinload

DRIVER = os.environ["BULLA_DRIVER"]
tokens = Tokens()


def make(tokens, **more):
    url = URL.create(f"postgresql+{DRIVER}", USER, None, HOST, PORT, DATABASE)
    if DRIVER == "pg8000":
        args = {"ssl_context": context()}
    else:
        args = {"sslmode": "verify-full", "sslrootcert": ROOT}
    engine = create_engine(url, connect_args=args, **more)

    # The documented way to give each new connection a fresh token.
    @event.listens_for(engine, "do_connect")
    def _(dialect, record, cargs, cparams):
        cparams["password"] = tokens()

    return engine


version(f"{sqlalchemy.__version__} (alembic {alembic.__version__})")
engine = make(tokens)


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    id = mapped_column(Integer, primary_key=True)
    name = mapped_column(String(80), nullable=False, unique=True)
    tags = mapped_column(ARRAY(Text), server_default="{}")
    extra = mapped_column(JSONB)
    key = mapped_column(UUID, server_default=text("gen_random_uuid()"))
    books = relationship("Book", back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "book"
    id = mapped_column(BigInteger, Identity(), primary_key=True)
    title = mapped_column(Text, nullable=False, index=True)
    price = mapped_column(Numeric(10, 2), CheckConstraint("price >= 0"))
    author_id = mapped_column(ForeignKey("author.id", ondelete="CASCADE"))
    author = relationship("Author", back_populates="books")


@feature("connect")
def _():
    with engine.connect() as c:
        same(c.execute(text("SELECT 1 + 1")).scalar(), 2)
        assert engine.dialect.server_version_info[0] in (15, 18)


@feature("create and reflect")
def _():
    Base.metadata.create_all(engine)
    Base.metadata.create_all(engine)
    found = MetaData()
    found.reflect(engine)
    assert {"author", "book", "customers", "payments"} <= set(found.tables), found.tables.keys()
    book = found.tables["book"]
    same([k.column.table.name for k in book.foreign_keys], ["author"])
    inspector = inspect(engine)
    same([i["column_names"] for i in inspector.get_indexes("book")], [["title"]])
    same([u["column_names"] for u in inspector.get_unique_constraints("author")], [["name"]])
    same(len(inspector.get_check_constraints("book")), 1)
    assert "contacts" in inspector.get_view_names()
    same([e["name"] for e in inspector.get_enums()], ["payment_state"])


@feature("ORM session")
def _():
    with Session(engine) as session:
        ada = Author(name="Ada", tags=["a", "b"], extra={"n": [1]})
        ada.books = [Book(title=f"Notes {n}", price=n) for n in range(300)]
        session.add_all([ada, Author(name="Grace")])
        session.commit()
        ada.books.pop()
        ada.extra = {"n": 2}
        session.commit()
        loaded = session.scalars(
            select(Author).options(selectinload(Author.books)).order_by(Author.name)
        ).all()
        same([(a.name, len(a.books), a.tags) for a in loaded], [("Ada", 299, ["a", "b"]), ("Grace", 0, [])])
        same(session.scalar(select(Author.name).where(Author.extra["n"].as_integer() == 2)), "Ada")
        total = select(func.sum(Book.price)).join(Author).group_by(Author.name)
        same(int(session.scalar(total)), sum(range(299)))
        same(session.scalars(select(Book.id).with_for_update(skip_locked=True).limit(2)).all(), [1, 2])
    with engine.begin() as c:
        upsert = insert(Author).values(name="Grace", extra={"x": 1})
        upsert = upsert.on_conflict_do_update(index_elements=["name"], set_={"extra": {"x": 2}})
        same(c.execute(upsert.returning(Author.extra)).scalar(), {"x": 2})


@feature("transactions")
def _():
    with Session(engine) as session:
        session.add(Author(name="Kept"))
        session.flush()

        def nested():
            with session.begin_nested():
                session.add(Author(name="Ada"))
                session.flush()

        fails(exc.IntegrityError, nested)
        session.commit()
        session.add(Author(name="Dropped"))
        session.flush()
        session.rollback()
        names = session.scalars(select(Author.name).order_by(Author.name)).all()
        same(names, ["Ada", "Grace", "Kept"])
    with engine.connect().execution_options(isolation_level="SERIALIZABLE") as c:
        same(c.execute(text("SHOW transaction_isolation")).scalar(), "serializable")


@feature("errors")
def _():
    with engine.connect() as c:
        fails(exc.ProgrammingError, lambda: c.execute(text(MISSPELT)))
        c.rollback()
        twice = text(f"{INSERT} (7, 'a', 'a', '', 'EU')")
        kind = exc.DBAPIError if DRIVER == "pg8000" else exc.IntegrityError
        error = fails(kind, lambda: c.execute(twice))
        assert "customers_pkey" in str(error), error


@feature("refusal")
def _():
    with engine.connect() as c:
        error = fails(exc.ProgrammingError, lambda: c.execute(text(REFUSED)))
        assert "refused: `SELECT` on `" in str(error), error
        c.rollback()
        same(c.execute(text("SELECT 1")).scalar(), 1)
        same(error.connection_invalidated, False)


@feature("cursor")
def _():
    with engine.connect() as c:
        rows = c.execution_options(stream_results=True, yield_per=100)
        rows = rows.execute(text("SELECT n FROM generate_series(1, 10000) n"))
        same(sum(len(part) for part in rows.partitions()), 10_000)


@feature("migrations")
def _():
    with engine.begin() as c:
        migration = MigrationContext.configure(c)
        op = Operations(migration)
        op.add_column("book", Column("pages", Integer, server_default="0", nullable=False))
        op.create_index("ix_pages", "book", ["pages"])
        op.alter_column("book", "title", type_=String(400))
        # The difference between the models and the database is found from the catalogue.
        tables = {"author", "book"}
        options = {"include_name": lambda name, kind, _: kind != "table" or name in tables}
        migration = MigrationContext.configure(c, opts=options)
        found = compare_metadata(migration, Base.metadata)
        kinds = sorted(d[0] if isinstance(d, tuple) else d[0][0] for d in found)
        same(kinds, ["modify_type", "remove_column", "remove_index"])


@feature("expiry")
def _():
    tokens = Tokens(SHORT)
    pooled = make(tokens, pool_size=1, max_overflow=0, pool_pre_ping=True)
    with pooled.connect() as c:
        first = c.execute(text("SELECT pg_backend_pid()")).scalar()
    until_gone()
    with pooled.connect() as c:
        same(c.execute(text("SELECT count(*) FROM orders")).scalar(), 5)
        assert c.execute(text("SELECT pg_backend_pid()")).scalar() != first
    assert tokens.count >= 2
    pooled.dispose()
