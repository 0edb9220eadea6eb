"""The corpus: faults drawn from the models' own modules by a seed, and the hand-made ones.

A drawn fault is labelled by what it does to an unguarded step (`probe.py`), never by what the product
says about it:

- something is not finite afterwards: must-alarm, and the step must not be taken;
- a loss, a gradient path or a range at the fusion has grown thirtyfold: must-alarm, at least a warning
  that names such a place;
- nothing has grown by more than twofold: must-work. A wrong range before a norm layer is such a case
  (the norm takes it out again), an infinity before a sigmoid or a spike behind a closed mask others;
- what lies between is not drawn: whether a tenfold step deserves a word can be argued either way.
"""

from __future__ import annotations

from itertools import product

from bifusion.rng import numpy_rng
from laboratory.bench import FAULT_STEP, Workshop
from laboratory.faults import Direction, Expected, Fault, Kind, ModuleFault, Site
from laboratory.handmade import handmade
from laboratory.probe import Effect, Probe
from laboratory.tiny import STEPS_PER_EPOCH

KINDS: tuple[Kind, ...] = ("nan", "inf", "spike", "range")
DIRECTIONS: tuple[Direction, ...] = ("forward", "backward")
DRAWS = {"bifusion_small": 2, "oneformer3d_small": 1, "mask3d_small": 1}
"""Faults of every kind and direction in each model."""
TRIES = 100


def site_of(workshop: Workshop, recipe: str, seed: int) -> Site:
    """Where the faults of a seed strike: one scene of the fault's step, drawn."""
    scenes = workshop.scenes_of_step(recipe, FAULT_STEP)
    victim = scenes[int(numpy_rng(seed, "victim").integers(len(scenes)))]
    return Site(step=FAULT_STEP, epoch=FAULT_STEP // STEPS_PER_EPOCH, victim=victim, seed=seed)


def corpus(workshop: Workshop, seed: int) -> list[Fault]:
    """All faults of one seed, each under a name of its own."""
    drawn = [f for recipe, draws in DRAWS.items() for f in draw(workshop, recipe, seed, draws)]
    return [*drawn, *handmade(seed)]


def draw(workshop: Workshop, recipe: str, seed: int, draws: int) -> list[Fault]:
    """`draws` faults of every kind and direction in the modules of one model, labelled."""
    probe = Probe(workshop, recipe, site_of(workshop, recipe, seed))
    modules = probe.modules()
    faults: dict[str, Fault] = {}
    for kind, direction in product(KINDS, DIRECTIONS):
        rng = numpy_rng(seed, "faults", recipe, kind, direction)
        names = [n for n, use in modules.items() if direction == "forward" or use.has_gradient]
        found = 0
        for _ in range(TRIES):
            name = names[int(rng.integers(len(names)))]
            one_scene = bool(rng.integers(2)) and modules[name].rows_known
            fault = _labelled(probe, recipe, ModuleFault(name, kind, direction, one_scene))
            if fault is not None and fault.name not in faults:
                faults[fault.name] = fault
                found += 1
            if found == draws:
                break
    return list(faults.values())


def _labelled(probe: Probe, recipe: str, injection: ModuleFault) -> Fault | None:
    """The fault with its label; None where its effect lies between harmless and material."""
    effect = probe.effect(injection)
    expected, why = _expected(effect, injection)
    if expected is None:
        return None
    scope = "one scene" if injection.one_scene else "all scenes"
    name = f"{injection.kind} {injection.direction} {injection.module} ({scope})"
    return Fault(name, recipe, expected, injection, why)


def _expected(effect: Effect, injection: ModuleFault) -> tuple[Expected | None, str]:
    if effect.nonfinite:
        scenes = "victim" if injection.one_scene else "batch"
        expected = Expected("must-alarm", module=injection.module, scenes=scenes)
        return expected, "a loss, a gradient or a statistic is not finite"
    if effect.material:
        expected = Expected("must-alarm", by="alarm", places=tuple(effect.material), scenes="among")
        return expected, f"{', '.join(effect.material)} grew thirtyfold or more"
    if effect.harmless:
        return Expected("must-work"), "finite, and no loss, gradient or range grew even twofold"
    return None, ""
