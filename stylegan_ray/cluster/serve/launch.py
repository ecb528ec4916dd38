"""The command `serve`: checks, the cluster, the application, and waiting for Ctrl-C."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from stylegan_ray.cluster.serve.access import chosen_token, is_loopback
from stylegan_ray.cluster.serve.options import ServeOptions
from stylegan_ray.config import ConfigError, load_config
from stylegan_ray.cores import num_cores
from stylegan_ray.credentials import without_credentials
from stylegan_ray.images.view import View, find_network
from stylegan_ray.interop.loading import locate
from stylegan_ray.options import check_least
from stylegan_ray.run_folder import as_path, find_run, refuse_relative
from stylegan_ray.storage import absolute, one_line

if TYPE_CHECKING:
    from stylegan_ray.cluster.serve.app import Plan

SEC_BETWEEN_LOOKS = 2.0
"""How often the command looks whether the application still runs."""
HEAD, HEAD_SEC = "node:__internal_head__", 60.0
"""The resource that only the head of a cluster has, and how long it may take to answer."""


def serve_network(options: ServeOptions) -> int:
    """Serves until it is interrupted, which raises KeyboardInterrupt; returns 1 where the application ends before."""
    check_options(options)
    check_packages()
    run = address_of(options)
    network = View.load(find_network(run, options.network)).describe()
    token = chosen_token(options.host, options.token)
    with application(options, run, token):
        print(f"Serving {network['name']} ({network['kimg']:g} kimg) of {without_credentials(run)}", flush=True)
        print(f"  Page  {page_address(options, token)}\n  Ctrl-C ends it.", flush=True)
        return wait()


def check_options(options: ServeOptions) -> None:
    """Raises ConfigError for values that can be refused before anything is loaded."""
    check_least(options, port=1, replicas=1, batch=1, threads=1)
    if options.port > 65535:
        raise ConfigError(f"--port {options.port} must be at most 65535; 8000 is usual")
    if options.follow_seconds <= 0:
        raise ConfigError(f"--follow-seconds {options.follow_seconds:g} must be larger than 0")
    if options.token is not None and not (options.token.isascii() and options.token.replace("-", "_").isidentifier()):
        raise ConfigError(
            "--token may contain letters, digits, - and _, and starts with a letter; leave it out for one"
        )
    refuse_relative({"RUN": as_path(options.run)})


def check_packages() -> None:
    """Raises ConfigError where Ray Serve is not installed."""
    missing = [name for name in ("fastapi", "starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"this command needs Ray Serve: pip install 'stylegan-ray[serve]' (no {missing[0]} here)")


def address_of(options: ServeOptions) -> str:
    """The absolute address of the run, checkpoint or file; raises ConfigError."""
    try:
        return find_run(options.run)
    except ConfigError:
        if options.follow or options.network == "best":
            needs = "--follow" if options.follow else "--network best"
            raise ConfigError(f"{needs} needs a run, and {options.run} is not one; leave it out") from None
        return absolute(locate(options.run))


def check_port(host: str, port: int) -> None:
    """Raises ConfigError unless the address is free on this machine."""
    if problem := port_problem(host, port):
        raise ConfigError(f"--host {host} --port {port} cannot be listened at: {problem}; choose another --port")


def check_port_of_head(host: str, port: int) -> None:
    """Raises ConfigError unless the address is free on the head of the cluster, where Ray Serve listens."""
    import ray

    from stylegan_ray.cluster.pinned import call_on_nodes

    heads = [node for node in ray.nodes() if node["Alive"] and HEAD in node["Resources"]]
    for node, problem in zip(
        heads, call_on_nodes([(node["NodeID"], port_problem, (host, port)) for node in heads], HEAD_SEC), strict=True
    ):
        if problem:
            raise ConfigError(
                f"--host {host} --port {port} cannot be listened at on the head of the cluster, "
                f"{node['NodeManagerAddress']}: {problem}; choose another --port, or a --host of that machine"
            )


def port_problem(host: str, port: int) -> str | None:
    """Why this machine cannot listen at an address; None where it can."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with closing(socket.socket(family, kind)) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(place)
    except OSError as error:
        return str(error)
    return None


@contextmanager
def application(options: ServeOptions, run: str, token: str | None) -> Iterator[None]:
    """Inside, the application answers; raises ConfigError where the cluster serves something else already."""
    import ray
    from ray import serve

    from stylegan_ray.cluster.resources import is_local, joined
    from stylegan_ray.cluster.serve.app import Plan

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    cfg = load_config("tiny", {"cluster.address": options.address, "cluster.num_workers": options.replicas})
    is_shared = not is_local(cfg)
    if not is_shared:
        check_port(options.host, options.port)
    with joined(cfg, print, option="--address"):
        if is_shared and serve.status().proxies:
            raise ConfigError(
                "the cluster runs Ray Serve already, whose port cannot be changed; end it with "
                "`serve shutdown`, or leave --address out"
            )
        if is_shared:
            check_port_of_head(options.host, options.port)
        device = device_of(options, ray.cluster_resources())
        plan = Plan(
            run=run, prefer=options.network, follow_sec=options.follow_seconds if options.follow else None, token=token,
            replicas=options.replicas, threads=options.threads or max(num_cores() // 2 // options.replicas, 1),
            batch=options.batch, device=device,
        )  # fmt: skip
        try:
            start(options, plan)
            yield
        finally:
            if is_shared:  # a cluster of this command alone ends with it
                serve.shutdown()


def start(options: ServeOptions, plan: Plan) -> None:
    """Starts Ray Serve and the application; raises ConfigError where that fails."""
    from ray import serve

    from stylegan_ray.cluster.serve.app import NAME, make_application

    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": options.host, "port": options.port},
            logging_config={"enable_access_log": False},
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set its own by now
        serve.run(make_application(plan), name=NAME, route_prefix="/")
    except RuntimeError as error:
        raise ConfigError(f"{plan.run} cannot be served: {one_line(error, 500)}") from error


def device_of(options: ServeOptions, resources: dict[str, Any]) -> str:
    """cpu or cuda; raises ConfigError where the cluster has fewer GPUs than replicas."""
    gpus = int(resources.get("GPU", 0))
    if options.device == "cuda" and gpus < options.replicas:
        raise ConfigError(
            f"--device cuda --replicas {options.replicas}: the cluster has {gpus} GPUs; use fewer, or cpu"
        )
    return "cuda" if options.device != "cpu" and gpus >= options.replicas else "cpu"


def page_address(options: ServeOptions, token: str | None) -> str:
    """What to open in a browser."""
    host = options.host if is_loopback(options.host) else socket.gethostname()
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{options.port}/" + (f"?token={quote(token)}" if token else "")


def wait() -> int:
    """Waits until the application does not run any more; returns 1."""
    from ray import serve

    from stylegan_ray.cluster.serve.app import NAME

    while (state := serve.status().applications.get(NAME)) is not None and state.status not in ENDED:
        time.sleep(SEC_BETWEEN_LOOKS)
    print(f"the application has ended: {one_line(state.message) if state else 'it was deleted'}", flush=True)
    return 1


ENDED = ("DEPLOY_FAILED", "DELETING")
