"""What the proxy costs."""

import statistics

from bench.processes import ask
from bench.scenarios.base import Bench, Outcome, say


def through_proxy(bench: Bench) -> Outcome:
    """Ask one server through the proxy and past it, in turns."""
    out = Outcome("Through the proxy and past it")
    clients = [1, 8, 32]
    found: dict[str, list[dict[str, float]]] = {"through the proxy": [], "past it": []}
    with bench.serving() as service:
        ((_, port), *_) = service.servers()[bench.good[0]]
        ports = {"through the proxy": service.port, "past it": port}
        for turn in range(bench.settings["rounds"]):
            names = list(ports) if turn % 2 == 0 else list(ports)[::-1]
            for name in names:
                job = {
                    "port": ports[name],
                    "texts": bench.texts,
                    "clients": clients,
                    "seconds": bench.settings["closed"],
                }
                found[name].append(ask("bench.openloop", job, None))
                say(f"  {name}: { ({k: round(v, 2) for k, v in found[name][-1].items()}) }")
    wrong = sum(int(figures["wrong"]) for rows in found.values() for figures in rows)
    total = sum(int(figures["answers"]) for rows in found.values() for figures in rows)
    out.check("wrong answers", "0", f"{wrong} of {total:,}", wrong == 0)
    keys = [
        (f"{kind}_{n}", f"{n} client{'s' * (n > 1)}, {unit}")
        for n in clients
        for kind, unit in (("throughput", "requests/s"), ("p50", "p50 ms"), ("p99", "p99 ms"))
    ]
    rows = []
    for key, title in keys:
        middle = {
            name: statistics.median(figures[key] for figures in rounds) for name, rounds in found.items()
        }
        digits = 0 if key.startswith("throughput") else 2
        cells = [
            f"{middle[name]:,.{digits}f} ({min(r[key] for r in found[name]):,.{digits}f}–{max(r[key] for r in found[name]):,.{digits}f})"
            for name in found
        ]
        rows.append([title, *cells, f"{middle['through the proxy'] / middle['past it']:.2f}"])
    out.tables.append({"heads": ["", *found, "ratio"], "rows": rows})
    out.notes.append(
        f"Closed loop, {bench.settings['rounds']} interleaved rounds of {bench.settings['closed']:g} s each: medians (smallest–largest). One server, one review a request."
    )
    out.data = found
    return out
