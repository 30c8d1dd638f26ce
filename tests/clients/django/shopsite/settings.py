"""Settings of a small shop, as one would write them for a database behind the gateway."""

import os

SECRET_KEY = "not a secret: this site is never served"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.postgres",
    "shop",
]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "USER": os.environ["PGUSER"],
        "NAME": os.environ["PGDATABASE"],
        "CONN_MAX_AGE": 600,
        "CONN_HEALTH_CHECKS": True,
        "OPTIONS": {
            # Read again at each connect, so that whoever writes tokens there keeps it fresh.
            "passfile": os.path.join(os.environ["BULLA_SCRATCH"], "pgpass"),
            "sslmode": "verify-full",
            "sslrootcert": os.environ["PGSSLROOTCERT"],
        },
    }
}
