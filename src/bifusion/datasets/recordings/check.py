"""Whether a recording was understood: its frames are laid over each other, as read and otherwise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from bifusion.datasets.placement import axis_of
from bifusion.datasets.recordings.agreement import FARTHEST_M, Sampled, agreement, sample
from bifusion.datasets.recordings.frame import Recording
from bifusion.datasets.recordings.upright import TURNS, camera_up, quarter_turns
from bifusion.errors import InputError

CLEARLY = 2.5
"""By how much another reading must agree better to be the right one; measured: 5 to 17."""
TINY_M = 1e-4
LEAST_M = 0.005
"""What a better reading must better by, at least."""
SHIFTS = (-3, -2, -1, 1, 2, 3)
FACTORS = (5.0, 0.2, 6.5535, 1 / 6.5535, 10.0, 0.1)
"""TUM's and Replica's units against millimetres, and tenths of them."""
POSE_UNITS = {"millimetres": 1000.0, "centimetres": 100.0}
"""Units of poses, which are metres in all layouts, by so many of them a metre."""
IN_POSES = "poses in "
SCALAR_FIRST = "quaternions as qw qx qy qz"
"""Of lists in TUM's layout, which has qx qy qz qw; others write the scalar first."""
FAR_APART_M = 1.0
"""Nearest frames of a recording in metres are nearer (median); others may have poses in other units."""
USUAL_M, POSSIBLE_M = (0.3, 8.0), (0.05, 40.0)
"""Median depth of rooms, and beyond which it is none."""
WELL = 0.03
"""Share of the depth to which frames agree when they are read rightly."""
SCALE_RATIO = 1.5


@dataclass
class RecordingCheck:
    """What was measured; `lines` are for the user."""

    pairs: int
    as_read_m: float
    """Median distance of the surfaces of frames from near places; NaN where none could be compared."""
    otherwise_m: dict[str, float]
    """The same under other readings, by the options that choose them."""
    median_depth_m: float
    measured: float
    """Share of depth pixels that are measured."""
    quarter_turns: int
    """Clockwise, to bring pictures upright; 0 where up is unknown."""
    lines: list[str] = field(default_factory=list)


def check_recording(recording: Recording, up: np.ndarray | None = None) -> RecordingCheck:
    """Compares about 20 frames with each other, in a few seconds.

    `up` (3,) is the world's, where the user gives one in place of `recording.up`.

    Raises InputError: another reading of the poses or another unit of the depth is clearly right, which
    the message names with the option that chooses it; depth that no room has; no readable frame.
    """
    sampled = sample(recording)
    as_read = agreement(recording, sampled, recording.reading)
    otherwise = _otherwise(recording, sampled)
    check = RecordingCheck(
        len(sampled.pairs),
        as_read,
        otherwise,
        sampled.median_depth_m,
        float(np.mean(sampled.shares)),
        quarter_turns(recording, up),
    )
    _judge_depth(recording, sampled)
    _judge_reading(recording, check)
    check.lines = _lines(recording, sampled, check, up)
    return check


def judge_scale(recording: Recording) -> None:
    """Sets `depth_scale` to the one of `recording.scales` that fits; a note says so.

    Frames agree best with the right one; where the camera hardly moved, the other must be no room's.
    Raises InputError: neither tells.
    """
    sampled = sample(recording)
    fits = {
        scale: agreement(recording, sampled, recording.reading, recording.depth_scale / scale)
        for scale in recording.scales
    }
    depths = {
        scale: sampled.median_depth_m * recording.depth_scale / scale for scale in recording.scales
    }
    ranked = sorted(fits, key=lambda scale: fits[scale])
    usual = [scale for scale in ranked if USUAL_M[0] <= depths[scale] <= USUAL_M[1]]
    if fits[ranked[1]] > SCALE_RATIO * fits[ranked[0]] + 1e-4 and ranked[0] in usual:
        chosen, why = ranked[0], f"frames agree to {fits[ranked[0]] * 1000:.1f} mm then"
        why += f", {fits[ranked[1]] * 1000:.1f} with {ranked[1]:g}"
    elif len(usual) == 1:
        chosen, why = usual[0], f"the median depth is {depths[usual[0]]:.2f} m then"
    else:
        listed = ", ".join(f"{depths[scale]:.2f} m with {scale:g}" for scale in recording.scales)
        raise InputError(
            f"{recording.name}: the depth's unit cannot be told: its median is {listed}; "
            "give --depth-scale"
        )
    recording.depth_scale, recording.scales = chosen, ()
    recording.notes.append(f"depth has {chosen:g} units a metre: {why} (--depth-scale gives another)")


def _otherwise(recording: Recording, sampled: Sampled) -> dict[str, float]:
    """Agreement under other readings, by their options."""
    declared, found = recording.reading, {}
    for axes in ("opencv", "opengl"):
        for poses in ("cam2world", "world2cam"):
            reading = replace(declared, axes=axes, poses=poses)
            if reading != declared:
                found[reading.options_from(declared)] = agreement(recording, sampled, reading)
    for shift in SHIFTS:
        reading = replace(declared, pose_shift=declared.pose_shift + shift)
        found[f"--pose-shift {reading.pose_shift}"] = agreement(recording, sampled, reading)
    if recording.layout == "tum":
        found[SCALAR_FIRST] = agreement(recording, sampled, declared, scalar_first=True)
    if recording.depth_scale != 1:
        for factor in FACTORS:
            option = f"--depth-scale {recording.depth_scale / factor:g}"
            found[option] = agreement(recording, sampled, declared, factor)
    for unit, factor in POSE_UNITS.items() if _apart_m(recording, sampled) > FAR_APART_M else ():
        # Depth in the poses' unit is as many times farther, and so are the distances of what it shows.
        found[IN_POSES + unit] = agreement(recording, sampled, declared, factor)
    return {option: value for option, value in found.items() if np.isfinite(value)}


def _apart_m(recording: Recording, sampled: Sampled) -> float:
    """Median distance of the cameras of the pairs; 0 without any."""
    places = [
        [recording.cam2world(index)[:3, 3] for index in (pair.first, pair.second)]
        for pair in sampled.pairs
    ]
    return float(np.median([np.linalg.norm(a - b) for a, b in places])) if places else 0.0


def _judge_reading(recording: Recording, check: RecordingCheck) -> None:
    if not check.otherwise_m:
        return
    best = min(check.otherwise_m, key=lambda option: check.otherwise_m[option])
    value = max(check.otherwise_m[best], 1e-6)
    well = value < WELL * check.median_depth_m
    if well and check.as_read_m > CLEARLY * value and check.as_read_m - value > LEAST_M:
        least = "more than " * (check.as_read_m >= FARTHEST_M)
        remedy = "give that option"
        if best.startswith(IN_POSES):
            metres = 1 / POSE_UNITS[best.removeprefix(IN_POSES)]
            remedy = (
                f"multiply the translations of its poses by {metres:g}, for which there is no option"
            )
        if best == SCALAR_FIRST:
            remedy = "write them as qx qy qz qw, the scalar last, for which there is no option"
        raise InputError(
            f"{recording.name}: frames from near places are {least}{check.as_read_m * 1000:.1f} mm "
            f"apart as this {recording.layout} recording was read, and {check.as_read_m / value:.0f} "
            f"times nearer with {best}: it is not as its layout says, {remedy}"
        )


def _judge_depth(recording: Recording, sampled: Sampled) -> None:
    median = sampled.median_depth_m
    if POSSIBLE_M[0] <= median <= POSSIBLE_M[1]:
        return
    if median == 0:
        raise InputError(f"{recording.name}: no pixel of the frames that were tried has a depth")
    raise InputError(
        f"{recording.name}: the median depth is {median:.3g} m, which no room has, with "
        f"{recording.depth_scale:g} units a metre; give --depth-scale"
    )


def _lines(
    recording: Recording, sampled: Sampled, check: RecordingCheck, given_up: np.ndarray | None
) -> list[str]:
    pictured = sum(recording.has_picture(index) for index in range(len(recording)))
    lines = [f"{len(recording):,} frames with pose in layout {recording.layout}"]
    if pictured < len(recording):
        lines[0] += f", {pictured:,} of them with a picture"
    if check.pairs:
        next_best = min(
            check.otherwise_m[option]
            for option in check.otherwise_m
            if not any(other in option for other in ("shift", "scale", IN_POSES, SCALAR_FIRST))
        )
        lines.append(
            f"{check.pairs} pairs of frames from near places agree to {check.as_read_m * 1000:.1f} mm "
            f"(median; {next_best * 1000:.1f} mm or more if poses are read otherwise)"
        )
        if next_best < CLEARLY * check.as_read_m + TINY_M:
            lines.append("that is too alike to tell: how poses are read is not checked")
        if check.as_read_m > WELL * check.median_depth_m:
            lines.append(
                "that is poor: poses, intrinsics or depth may be wrong, or frames hardly overlap"
            )
    else:
        lines.append("no two frames could be compared: how poses are read is not checked")
    lines.append(f"median depth {check.median_depth_m:.2f} m, {check.measured:.0%} of pixels measured")
    if not USUAL_M[0] <= check.median_depth_m <= USUAL_M[1]:
        lines.append("few rooms have such depth: is its unit right? (--depth-scale)")
    lines += [f"left out: {error}" for error in sampled.unreadable[:3]]
    world_up = recording.up if given_up is None else given_up
    if world_up is None:
        lines.append("the layout does not say which way is up")
    else:
        up = camera_up(recording, check.quarter_turns) @ world_up
        angle = np.degrees(np.arccos(np.clip(up, -1, 1)))
        said = f"{axis_of(world_up)} is up" + (", as given" if given_up is not None else "")
        lines.append(f"{said}; the cameras' mean up is {angle:.0f}° from it")
    if check.quarter_turns:
        lines.append(f"pictures lie sideways: {TURNS[check.quarter_turns]} turns them upright")
    return lines + recording.notes
