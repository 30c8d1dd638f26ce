from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models.functions import Lower


class Supplier(models.Model):
    name = models.CharField(max_length=80, unique=True)
    country = models.CharField(max_length=2, default="EU")

    class Meta:
        constraints = [models.UniqueConstraint(Lower("name"), name="supplier_name_folded")]


class Product(models.Model):
    class State(models.TextChoices):
        DRAFT = "draft"
        SOLD = "sold"

    supplier = models.ForeignKey(Supplier, on_delete=models.CASCADE, related_name="products")
    title = models.CharField(max_length=200, db_index=True)
    price = models.DecimalField(max_digits=10, decimal_places=2)
    state = models.CharField(max_length=8, choices=State, default=State.DRAFT)
    tags = ArrayField(models.CharField(max_length=20), default=list)
    details = models.JSONField(default=dict)
    made = models.DateTimeField(auto_now_add=True)

    class Meta:
        indexes = [GinIndex(fields=["details"], name="product_details")]
        constraints = [
            models.CheckConstraint(condition=models.Q(price__gte=0), name="price_not_negative")
        ]


class Basket(models.Model):
    owner = models.ForeignKey(User, on_delete=models.CASCADE)
    products = models.ManyToManyField(Product, through="Line")


class Line(models.Model):
    basket = models.ForeignKey(Basket, on_delete=models.CASCADE)
    product = models.ForeignKey(Product, on_delete=models.PROTECT)
    count = models.PositiveIntegerField(default=1)
