"""Tables of what was measured, for people."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_tables(results: dict[str, Any], console: Console) -> None:
    """One table a part that was measured."""
    machine = results["machine"]
    console.print(
        f"{machine['backend']}; {machine['threads']} threads, load {machine['load_1_minute']:.1f} before"
    )
    _limits(results["limits"], console)
    for part, show in _TABLES.items():
        if part in results:
            show(results[part], console)


def _limits(found: dict[str, float | None], console: Console) -> None:
    dense, peak = found["dense_gflops"] or 0.0, found["peak_gflops"]
    chip = "not known without the engine" if peak is None else f"{peak:.0f} GFLOP/s"
    share = "" if peak is None else f", {dense / peak:.0%} of that"
    console.print(f"limit of the chip, by multiply-adds in registers: {chip}")
    console.print(f"dense product of side 4096: {dense:.0f} GFLOP/s{share}")


def _layers(found: dict[str, Any], console: Console) -> None:
    rival = next((peer for peer in found.get("spconv", []) if peer["threads"] == 1), None)
    rivals = {record["channels"]: record for record in rival["layers"]} if rival else {}
    table = Table(title=f"single layers, {found['voxels']:,} voxels: share of the dense product's speed")
    for name in (
        "layer",
        "channels",
        "forward",
        "grad feats",
        "grad weight",
        "× spconv fwd",
        "× spconv bwd",
    ):
        table.add_column(name, justify="right")
    for record in found["ours"]:
        shares = [f"{record[k]['share_of_dense']:.0%} ± {record[k]['spread'] / 2:.0%}" for k in _KERNELS]
        theirs = rivals.get(record["channels"]) if record["layer"] == "kernel 3" else None
        ratios = ["", ""]
        if theirs:
            backward = record["grad_feats"]["seconds"] + record["grad_weight"]["seconds"]
            ratios = [
                f"{theirs['forward']['seconds'] / record['forward']['seconds']:.1f}",
                f"{theirs['backward']['seconds'] / backward:.1f}",
            ]
        table.add_row(record["layer"], str(record["channels"]), *shares, *ratios)
    console.print(table)
    for peer in found.get("spconv", []):
        errors = max(max(record["errors"]) for record in peer["layers"])
        console.print(f"spconv on {peer['threads']} thread(s): largest relative error {errors:.1e}")


_KERNELS = ("forward", "grad_feats", "grad_weight")


def _unets(found: dict[str, Any] | list[Any], console: Console) -> None:
    records = found["ours"] if isinstance(found, dict) else found
    table = Table(title="U-Nets, forward and backward with kernel maps")
    for name in ("network", "voxels", "GFLOP fwd", "fwd s", "fwd+bwd s", "of dense", "maps of step"):
        table.add_column(name, justify="right")
    for record in records:
        step = record["forward_backward"]
        table.add_row(
            record["unet"],
            f"{record['voxels']:,}",
            f"{record['forward_gflop']:.0f}",
            f"{record['forward']['seconds']:.2f}",
            f"{step['seconds']:.2f} ± {step['spread'] / 2:.0%}",
            f"{record['share_of_dense']:.0%}",
            f"{record['kernel_maps']['share_of_step']:.1%}",
        )
    for peer in found.get("spconv", []) if isinstance(found, dict) else []:
        state = "" if peer["repeatable"] else ", results differ from run to run"
        table.add_row(
            f"spconv residual, {peer['threads']} thread(s){state}",
            f"{peer['voxels']:,}",
            "",
            f"{peer['forward']['seconds']:.2f}",
            f"{peer['forward_backward']['seconds']:.2f}",
            "",
            "",
        )
    console.print(table)


def _growth(found: list[dict[str, Any]], console: Console) -> None:
    for record in found:
        _unets(record["rooms"], console)
        console.print(f"{record['unet']}: time grows with voxels^{record['exponent']:.2f}")


def _steps(found: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="training steps")
    for name in ("recipe", "engine", "parameters", "voxels", "views", "step s", "peak GB"):
        table.add_column(name, justify="right")
    for record in found:
        table.add_row(
            record["recipe"],
            record.get("backend", "native"),
            f"{record['parameters'] / 1e6:.1f} M",
            f"{record['voxels']:,}",
            str(record["views"]),
            f"{record['step']['seconds']:.2f}",
            f"{record['peak_memory_mb'] / 1024:.1f}",
        )
    console.print(table)
    for record in found:
        parts = sorted(record["parts"].items(), key=lambda item: -item[1])
        of_which = ", ".join(f"{name} {seconds:.2f}" for name, seconds in parts)
        console.print(f"{record['recipe']}, of which seconds: {of_which}")


def _overhead(found: list[dict[str, Any]], console: Console) -> None:
    table = Table(title="monitor and guard: share of a step without them")
    for name in ("recipe", "watched s", "unwatched s", "every step", "update ratios", "conflicts",
                 "healthy state", "in all"):  # fmt: skip
        table.add_column(name, justify="right")
    for record in found:
        extra, every = record["extra_seconds"], record["every"]
        base = record["unwatched"]["seconds"]
        table.add_row(
            record["recipe"],
            f"{record['watched']['seconds']:.3f}",
            f"{base:.3f}",
            f"{extra['every step'] / base:.1%}",
            *(
                f"{extra[name]:.2f} s / {every[name]} steps"
                for name in ("updates", "conflicts", "healthy")
            ),
            f"{record['share']:.1%}",
        )
    console.print(table)
    for record in found:
        leaving = record["leaving"]
        size = leaving["bytes"] / 1e6
        console.print(
            f"{record['recipe']}: a signal's checkpoint {leaving['seconds']:.1f} s, {size:,.0f} MB"
        )


def _fusion(found: dict[str, Any], console: Console) -> None:
    table = Table(title="depth fused at 2 cm, processor time")
    for name in ("what", "frames", "s a frame", "surface s", "in all s", "vertices", "MB above imports"):
        table.add_column(name, justify="right")
    for name in ("recording", "rendered"):
        if name in found:
            record, seconds = found[name], found[name]["seconds"]
            each = f"{seconds['add'] / record['frames']:.3f}"
            whole = f"{seconds['all']:.2f}" if "all" in seconds else ""
            row = [f"{record['frames']:,}", each, f"{seconds['surface']:.2f}", whole]
            memory = f"{record['peak_mb_above_imports']:.0f}"
            table.add_row(name, *row, f"{record['vertices']:,}", memory)
    if "open3d" in found:
        peer = found["open3d"]
        name = f"recording, Open3D {peer['version']}"
        table.add_row(name, "", "", "", f"{peer['seconds']['all']:.2f}", f"{peer['vertices']:,}", "")
    console.print(table)
    for name, value in found.get("distance", {}).items():
        console.print(f"{name}: {value:.1f}")


_TABLES = {
    "layers": _layers,
    "unets": _unets,
    "growth": _growth,
    "steps": _steps,
    "overhead": _overhead,
    "demo": _steps,
    "fusion": _fusion,
}
