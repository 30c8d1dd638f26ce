"""A small Django site: its migrations are made, applied, taken back; then its ORM does its work."""

import io
import shutil
import sys

from bed import *

passfile(os.environ["PGPASSWORD"])
os.environ.pop("PGPASSWORD")
# Migrations are written beside the models, so they are made in a copy.
site = os.path.join(os.environ["BULLA_SCRATCH"], "site")
shutil.rmtree(site, ignore_errors=True)
shutil.copytree(os.path.join(os.path.dirname(os.path.abspath(__file__)), "django"), site)
sys.path.insert(0, site)
os.environ["DJANGO_SETTINGS_MODULE"] = "shopsite.settings"

import django

django.setup()

from django.contrib.auth.models import User
from django.core import management
from django.db import DatabaseError, IntegrityError, ProgrammingError, connection, transaction
from django.db.models import Count, F, Max, Q, Sum, Window
from django.db.models.functions import Rank
from shop.models import Basket, Line, Product, Supplier

version(django.get_version())


def manage(*words):
    out = io.StringIO()
    management.call_command(*words, stdout=out, verbosity=1)
    return out.getvalue()


@feature("connect")
def _():
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1 + 1")
        same(cursor.fetchone(), (2,))


@feature("migrations")
def _():
    manage("makemigrations", "shop")
    manage("migrate")
    same(manage("migrate").strip().endswith("No migrations to apply."), True)
    same(manage("makemigrations", "--check", "--dry-run").strip(), "No changes detected")
    manage("migrate", "shop", "zero")
    manage("migrate", "shop")
    assert "[X] 0001_initial" in manage("showmigrations", "shop")
    assert "CREATE TABLE" in manage("sqlmigrate", "shop", "0001")


@feature("inspectdb")
def _():
    written = manage("inspectdb", "customers", "every_type")
    assert "class Customers(models.Model)" in written and "models.JSONField" in written, written


@feature("ORM")
def _():
    user = User.objects.create_user("ada", "ada@example.com", "secret")
    makers = Supplier.objects.bulk_create([Supplier(name=f"Maker {n}") for n in range(20)])
    Product.objects.bulk_create(
        [
            Product(supplier=makers[n % 20], title=f"Thing {n}", price=n, tags=[f"t{n % 3}"],
                    details={"size": n % 5, "inner": {"n": n}})
            for n in range(1000)
        ],
        batch_size=250,
    )
    same(Product.objects.filter(details__inner__n__gte=990).count(), 10)
    same(Product.objects.filter(tags__contains=["t1"]).count(), 333)
    same(Product.objects.filter(price__lt=10).update(price=F("price") + 1), 10)
    top = Supplier.objects.annotate(n=Count("products"), most=Max("products__price")).order_by("-most")
    same((top[0].name, top[0].n), ("Maker 19", 50))
    ranked = Product.objects.annotate(rank=Window(Rank(), order_by=F("price").desc()))
    same(ranked.filter(rank__lte=3).count(), 3)
    basket = Basket.objects.create(owner=user)
    Line.objects.create(basket=basket, product=Product.objects.get(title="Thing 7"), count=3)
    basket = Basket.objects.select_related("owner").prefetch_related("products").get()
    same([p.title for p in basket.products.all()], ["Thing 7"])
    same(Line.objects.aggregate(n=Sum("count"))["n"], 3)
    supplier, created = Supplier.objects.get_or_create(name="Maker 3")
    same(created, False)
    Supplier.objects.update_or_create(name="New", defaults={"country": "US"})
    same(Product.objects.filter(Q(title="Thing 8") | Q(title="Thing 9")).delete()[0], 2)
    same(User.objects.get(username="ada").check_password("secret"), True)
    same(sum(1 for _ in Product.objects.iterator(chunk_size=100)), 998)


@feature("transactions")
def _():
    def fail():
        with transaction.atomic():
            Supplier.objects.create(name="Half")
            with transaction.atomic():
                Supplier.objects.create(name="Maker 1")

    fails(IntegrityError, fail)
    same(Supplier.objects.filter(name="Half").exists(), False)
    with transaction.atomic():
        Supplier.objects.create(name="Whole")
        try:
            with transaction.atomic():
                Supplier.objects.create(name="Maker 1")
        except IntegrityError:
            pass
        same(Product.objects.select_for_update(nowait=True).filter(title="Thing 1").count(), 1)
    same(Supplier.objects.filter(name="Whole").exists(), True)


@feature("refusal")
def _():
    def ask():
        with connection.cursor() as cursor:
            cursor.execute(REFUSED)

    error = fails(ProgrammingError, ask)
    assert str(error).startswith("refused: `SELECT` on `"), error
    same(Supplier.objects.filter(name="Maker 1").count(), 1)


@feature("expiry")
def _():
    from django.db import close_old_connections

    connection.close()
    passfile(token(SHORT))

    def pid():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            return cursor.fetchone()[0]

    first = pid()
    passfile(token())
    until_gone()
    # What Django does between two requests.
    close_old_connections()
    assert pid() != first
    same(Supplier.objects.filter(name="Maker 1").count(), 1)
