"""A session of Apache Spark on any master; whatever is missing for one is said in one line."""

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from cli import signals_noted

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LOGGING = Path(__file__).with_name("log4j2.properties")
JAVA = 17  # the oldest that Spark 4 runs on
_TOLD = re.compile(r"(?:\bFileError|OSError|NoSpaceLeft\w*|MemoryError)\S*: (.+)")
_MASTER = re.compile(r"local(\[(\d+|\*)(,\d+)?\])?|(spark|k8s)://\S+|yarn")

MASTER = "With engine=spark: local[n], spark://host:port, yarn or k8s://https://host:port."
master_option = click.option(
    "--master",
    default="local[*]",
    show_default=True,
    help=MASTER,
)


class SparkError(click.ClickException):
    """Spark cannot be started, or a job of it failed; the message says why and what to do."""


@contextmanager
def session(master: str, name: str, **settings: str) -> Iterator["SparkSession"]:
    """Run a block with a Spark session of the driver in this process; stop it afterwards, unless it was there before.

    What is set in ``spark-defaults.conf`` of ``SPARK_CONF_DIR`` holds, unless it is set here.

    Parameters
    ----------
    master : str
        ``local[n]``, ``spark://host:port``, ``yarn`` or ``k8s://https://host:port``.
    name : str
        Of the application.
    **settings : str
        Spark's own, with ``_`` for the dots.

    Raises
    ------
    SparkError
        If Spark or Java is missing or too old, the master does not answer, or Spark does not start.
    """
    if not _MASTER.fullmatch(master):
        raise SparkError(
            f"master={master[:60]!r} is not known; expected local[n], local[*], spark://host:port, yarn or k8s://https://host:port"
        )
    check_installed()
    from py4j.protocol import Py4JError
    from pyspark.sql import SparkSession

    local = master.startswith("local")
    if not local:
        _check_answers(master)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    if local:
        os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")  # else its ports would be open to the network
    warnings.filterwarnings("ignore", message="PySpark does not yet fully support pandas")
    there = SparkSession.getActiveSession()  # a notebook's, or a test's, which goes on
    builder = SparkSession.builder.master(master).appName(name)
    defaults = {
        "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
    }
    if "SPARK_CONF_DIR" not in os.environ:
        defaults["spark.driver.extraJavaOptions"] = f"-Dlog4j2.configurationFile={LOGGING.as_uri()}"
    given = {setting.replace("_", "."): value for setting, value in settings.items()}
    for setting, value in (defaults | given).items():
        builder = builder.config(setting, value)
    try:
        if not there:
            click.echo(f"Spark starts on {master} …")
        with signals_noted() as noted:
            spark = builder.getOrCreate()
    except Exception as error:  # of PySpark, of py4j, of the JVM
        raise SparkError(f"Spark does not start on master={master}: {first_line(error)}") from None
    try:
        if noted:
            signal.raise_signal(noted[0])
        yield spark
    except (Py4JError, ConnectionError) as error:
        raise SparkError(f"Spark has ended, or was ended: {first_line(error)}") from None
    finally:
        if not there:
            with suppress(Py4JError, OSError):  # its JVM may be gone
                spark.stop()


@contextmanager
def told(what: str) -> Iterator[None]:
    """Say in one line why a job of Spark failed.

    Parameters
    ----------
    what : str
        What failed, as the line begins.

    Raises
    ------
    SparkError
        If it did.
    """
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        yield
    except (PySparkException, Py4JError) as error:
        found = _TOLD.search(str(error))
        raise SparkError(f"{what}: {found[1].strip() if found else first_line(error)}") from None


def first_line(error: BaseException) -> str:
    r"""Return what a fault of Spark says, without the stack traces of its processes.

    Examples
    --------
    >>> first_line(ValueError("from a worker:\nTraceback (most recent call last):\n  File\nKeyError: 'a'\n\tat java.base"))
    "KeyError: 'a'"
    """
    lines = [line.rstrip() for line in str(error).splitlines() if line.strip()]
    raised = [
        line for line in lines if re.match(r"(?!java|org|scala|py4j)[\w.]*(Error|Exception|Invalid): ", line)
    ]
    caused = [line.split(": ", 2)[-1] for line in lines if re.match(r": (java|org)[\w.]+: ", line)]
    traced = any(line.startswith("Traceback") for line in lines)
    told = raised[-1:] if traced else caused[:1]
    return (told[0] if told else lines[0].strip() if lines else type(error).__name__)[:400]


def check_installed() -> None:
    """Say what is missing for Spark, before anything is imported of it.

    Raises
    ------
    SparkError
        If it is not installed, or Java is missing or too old.
    """
    if importlib.util.find_spec("pyspark") is None:
        raise SparkError(
            "Apache Spark is not installed: run 'make env-spark', or python -m pip install -r requirements/spark.txt; "
            f"it needs Java {JAVA} or newer"
        )
    _check_java()


def _check_java() -> None:
    home = os.environ.get("JAVA_HOME")
    java = str(Path(home, "bin", "java")) if home else shutil.which("java")
    needs = (
        f"Spark needs Java {JAVA} or newer (apt-get install openjdk-17-jre-headless, brew install openjdk@17)"
    )
    try:
        told = subprocess.run([java or "java", "-version"], capture_output=True, text=True, timeout=60).stderr
    except (OSError, subprocess.TimeoutExpired):
        where = f"JAVA_HOME={home} holds none" if home else "there is none on the PATH"
        raise SparkError(f"{needs}; {where}") from None
    found = re.search(r'version "(?:1\.)?(\d+)', told)
    if not found or int(found[1]) < JAVA:
        raise SparkError(f"{needs}; {java} is {told.splitlines()[0][:80] if told else 'something else'}")


def _check_answers(master: str) -> None:
    """Ask for a connection: Spark itself tries for a minute, and then says little."""
    if master == "yarn":
        if not os.environ.get("HADOOP_CONF_DIR") and not os.environ.get("YARN_CONF_DIR"):
            raise SparkError("master=yarn: set HADOOP_CONF_DIR to the folder of the cluster's configuration")
        return
    problems = []
    for one in master.removeprefix("k8s://").removeprefix("spark://").split(","):
        address = urlsplit(one if "//" in one else f"//{one}")
        port = address.port or {"https": 443, "http": 80}.get(address.scheme, 7077)
        try:
            socket.create_connection((address.hostname or "", port), timeout=5).close()
        except OSError as error:
            problems.append(f"{address.hostname}:{port}: {error.strerror or error}")
        else:
            return
    raise SparkError(
        f"master={master} does not answer ({'; '.join(problems)}); check the address, and that it runs"
    )
