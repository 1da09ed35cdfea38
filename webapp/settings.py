"""Settings of every process. What may be set from outside is read from the environment here and nowhere else;
docs/configuration.md has the table. Nothing set: everything runs on this machine, with data under ``.steersman/``.
``NAME_FILE`` names a file that holds the value of ``NAME``, as containers are handed their secrets.
"""

from datetime import timedelta
from pathlib import Path
from typing import Any

import environ
from csp.constants import NONCE, NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from webapp.local.endpoints import read_endpoints, secret_in

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.FileAwareEnv()
env.read_env(BASE_DIR / ".env")  # the environment wins over the file; no file, no harm

STEERSMAN_DATA = Path(env.str("STEERSMAN_DATA", default=str(BASE_DIR / ".steersman"))).expanduser().resolve()
CHECKPOINT_STORE = STEERSMAN_DATA / "checkpoints"
RUN_DIRECTORIES = STEERSMAN_DATA / "runs"
ROLE = env.str("STEERSMAN_ROLE", default="command")  # web, worker or command: which time-outs the database is given

DEBUG = env.bool("DEBUG", default=False)
LOOPBACK = ["localhost", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=LOOPBACK)
IS_LOCAL = all(host in LOOPBACK for host in ALLOWED_HOSTS)  # else the world may knock, and the rules are stricter


def find_secret_key() -> str:
    """SECRET_KEY, or for local use one that was made once and is kept with the data.

    Raises ImproperlyConfigured where others can reach the server and the key is missing or weak.
    """
    key = env.str("SECRET_KEY", default="").strip()
    if IS_LOCAL or DEBUG:
        return key or secret_in(STEERSMAN_DATA / "secret_key")
    if not key:
        raise ImproperlyConfigured("SECRET_KEY is not set, but ALLOWED_HOSTS names hosts that others can reach")
    if len(key) < 50 or len(set(key)) < 10 or key.startswith("django-insecure-"):
        raise ImproperlyConfigured("SECRET_KEY is weak: it needs at least 50 characters, drawn at random")
    return key


SECRET_KEY = find_secret_key()

# --- Parts -----------------------------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_htmx",
    "axes",
    "webapp.local",
    "webapp.accounts",
    "webapp.projects",
    "webapp.registry",
    "webapp.feedback",
    "webapp.quality",
    "webapp.runs",
    "workers",
]
AUTH_USER_MODEL = "accounts.User"
ROOT_URLCONF = "webapp.urls"
ASGI_APPLICATION = "webapp.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

MIDDLEWARE = [
    "webapp.nul.NoNul",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "webapp.accounts.languages.LanguageMiddleware",  # asks the account, so it stands after it
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "axes.middleware.AxesMiddleware",  # last: it turns a lock-out into an answer
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "webapp" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
            ]
        },
    }
]

# --- Database and broker ---------------------------------------------------------------------------------------------

ENDPOINTS = read_endpoints(STEERSMAN_DATA)
DATABASE_URL = env.str("DATABASE_URL", default="").strip()
BROKER_URL = env.str("BROKER_URL", default="").strip()
DATABASE_IS_EMBEDDED, BROKER_IS_EMBEDDED = not DATABASE_URL, not BROKER_URL
NOT_STARTED = "postgresql://steersman@127.0.0.1:1/steersman"  # refuses at once; manage.py then says what to do

TIMEOUTS = {  # statement, lock, idle in transaction; a page must not wait where a worker may
    "web": ("5s", "2s", "15s"),
    "worker": ("60s", "5s", "60s"),
    "command": ("0", "10s", "0"),
}


def connect_to_database(url: str) -> dict[str, Any]:
    """Django's settings for ``url``; the web process keeps a small pool, the others one connection each."""
    database: dict[str, Any] = environ.Env.db_url_config(url)
    statement, lock, idle = TIMEOUTS.get(ROLE, TIMEOUTS["command"])
    timeouts = f"-c statement_timeout={statement} -c lock_timeout={lock} -c idle_in_transaction_session_timeout={idle}"
    options = {**database.get("OPTIONS", {}), "application_name": f"steersman-{ROLE}", "connect_timeout": 5}
    # A statement that comes again is not planned again: planning the joins of a rater's item takes longer than they do.
    options |= {"server_side_binding": True, "prepare_threshold": 5}
    options["options"] = f"{options.get('options', '')} {timeouts}".strip()
    if ROLE == "web":
        options["pool"] = {"min_size": 2, "max_size": 8, "timeout": 5, "max_lifetime": 1800}
    return {**database, "OPTIONS": options, "CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True, "ATOMIC_REQUESTS": False}


DATABASES = {"default": connect_to_database(DATABASE_URL or ENDPOINTS.get("database_url", "") or NOT_STARTED)}
BROKER_URL = BROKER_URL or ENDPOINTS.get("broker_url", "") or "redis://127.0.0.1:1/0"

# --- Runs ------------------------------------------------------------------------------------------------------------

RUN_LEASE_SECONDS = env.int("RUN_LEASE_SECONDS", default=60)  # a supervisor that is silent for so long has died
RUN_RENEW_SECONDS = env.int("RUN_RENEW_SECONDS", default=10)
RUN_REAP_SECONDS = env.int("RUN_REAP_SECONDS", default=15)
RUN_START_SECONDS = env.int("RUN_START_SECONDS", default=180)  # from claim to the first word of the child
RUN_CANCEL_SECONDS = env.int("RUN_CANCEL_SECONDS", default=120)
RUN_STALL_SECONDS = env.int("RUN_STALL_SECONDS", default=600)  # no step for so long: killed and tried again
RUN_MAX_ATTEMPTS = env.int("RUN_MAX_ATTEMPTS", default=3)  # claims without saved progress between them
RUN_POLL_SECONDS = env.float("RUN_POLL_SECONDS", default=0.5)  # between two looks of a supervisor at its child
RUN_STOP_SECONDS = env.int("RUN_STOP_SECONDS", default=60)  # from SIGTERM, which saves the state, to SIGKILL
RUN_DATABASE_SECONDS = env.int("RUN_DATABASE_SECONDS", default=300)  # computing on while the database is away
REFILL_SECONDS = env.int("REFILL_SECONDS", default=10)  # between two looks at every project's queue
SAMPLER_ADDRESS = env.str("SAMPLER_ADDRESS", default="")  # http://host:port; empty: a socket in the data folder
SAMPLER_DEVICE = env.str("SAMPLER_DEVICE", default="")  # empty: a graphics card where there is one, else the CPU
SAMPLER_THREADS = env.int("SAMPLER_THREADS", default=1)
HEARTBEAT_FILE = env.str("HEARTBEAT_FILE", default="")  # touched by a worker while it lives; empty: none

# --- People ----------------------------------------------------------------------------------------------------------

AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.Argon2PasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
AXES_FAILURE_LIMIT = 8
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_LOCKOUT_TEMPLATE = "accounts/locked.html"
AXES_RESET_ON_SUCCESS = True
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False
LOGIN_URL = "accounts:login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/"

# --- The border to the browser ---------------------------------------------------------------------------------------

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, NONCE],
        "style-src": [SELF, NONCE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "manifest-src": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
        "object-src": [NONE],
    }
}
X_FRAME_OPTIONS = "DENY"
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
SECURE_CONTENT_TYPE_NOSNIFF = True
SESSION_COOKIE_AGE = 43_200  # twelve hours
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = CSRF_COOKIE_SAMESITE = "Lax"
USE_HTTPS = env.bool("USE_HTTPS", default=not IS_LOCAL)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = LANGUAGE_COOKIE_SECURE = SECURE_SSL_REDIRECT = USE_HTTPS
SECURE_REDIRECT_EXEMPT = [r"^healthz$"]  # asked by the machine itself, without a proxy in between
SECURE_HSTS_SECONDS = 31_536_000 if USE_HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = USE_HTTPS
PUBLIC_URL = env.str("PUBLIC_URL", default="")  # how people reach the pages; for links that commands print
CSRF_FAILURE_VIEW = "webapp.pages.csrf_failure"
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])
if env.bool("BEHIND_PROXY", default=False):  # only then may a header claim that the request came by HTTPS
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576
DATA_UPLOAD_MAX_NUMBER_FILES = 5

# --- Words, times, files ---------------------------------------------------------------------------------------------

LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("de", "Deutsch"), ("ar", "العربية")]  # each by its own name; docs/translating.md
LOCALE_PATHS = [BASE_DIR / "webapp" / "locale"]
FORMAT_MODULE_PATH = "webapp.formats"
LANGUAGE_COOKIE_NAME = "language"
LANGUAGE_COOKIE_AGE = 31_536_000  # a year
LANGUAGE_COOKIE_HTTPONLY = True
TIME_ZONE = env.str("TIME_ZONE", default="UTC")
USE_TZ = True
USE_I18N = True

STATIC_URL = "static/"
STATIC_ROOT = STEERSMAN_DATA / "static"
STATICFILES_DIRS = [BASE_DIR / "webapp" / "static"] if (BASE_DIR / "webapp" / "static").is_dir() else []
WHITENOISE_ALLOW_ALL_ORIGINS = False  # no other site needs our files
WHITENOISE_USE_FINDERS = DEBUG
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {"format": "{asctime} {levelname:<7} {name}: {message}", "style": "{", "datefmt": "%H:%M:%S"}
    },
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": env.str("LOG_LEVEL", default="INFO")},
    "loggers": {
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        "axes": {"level": "WARNING"},
        "django.request": {"level": "ERROR"},  # a refused form is no fault, and its address may hold a link's secret
        "celery.worker.strategy": {"level": "WARNING"},  # a line for each message received, and one for each done
        "celery.app.trace": {"level": "WARNING"},
    },
}
