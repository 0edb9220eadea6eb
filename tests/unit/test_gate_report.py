"""What a comparison tells of gates and of where fusion hurts, on runs made for it."""

import pytest

from bifusion.studies.comparison.differences import fusion_differences
from bifusion.studies.comparison.fixed_gate import beside_fixed_gate
from bifusion.studies.comparison.gate import gate_entries
from bifusion.studies.comparison.run import write_report
from bifusion.studies.comparison.verdicts import judge_fusion
from bifusion.studies.figures.arms import find_role, group_runs
from bifusion.studies.figures.run import load_run
from run_factory import AUDIT, FakeRun, name_parts
from verdict_arms import set_in_config


def arms_of(root, *fakes):
    return group_runs([load_run(fake.write(root)) for fake in fakes])


def gate_table(chair=0.3, door=0.7):
    """evaluation.json's gate: 300 points of chairs, a geometry class, and 100 of doors, of texture."""

    def row(points, mean):
        return {"points": points, "mean": mean, "std": 0.1}

    return {
        **row(400, (3 * chair + door) / 4), "std_within_scenes": 0.08,
        "histogram": [0] * 10 + [400] * 10,
        "classes": {"chair": row(300, chair), "door": row(100, door), "bed": row(0, None)},
        "views": {"1 view": row(100, 0.35), "2 views": row(300, 0.45)},
        "distance": {"under 1 m": row(400, 0.4)},
        "outcome": {"right only with views": row(40, 0.8), "right both ways": row(360, 0.4)},
    }  # fmt: skip


# ------------------------------------------------------------------------------------ the gate


def test_gates_by_group(tmp_path):
    fakes = [
        FakeRun(seed=s, miou=0.6, evaluation={"gate": gate_table(door=0.7 + 0.1 * s)} | flat)
        for s, flat in enumerate(
            ({"flat_gate": {"miou": 0.5}}, {"flat_gate": {"miou": 0.53, "ap": 0.4}})
        )
    ]
    arms = arms_of(tmp_path, *fakes, FakeRun(arm="naive"), FakeRun(arm="baseline"))
    entries = gate_entries(arms, AUDIT)
    assert set(entries) == {"staged"}, "naive's was not measured point by point"
    entry = entries["staged"]
    assert entry.std_within_scenes.mean == pytest.approx(0.08)
    assert entry.flat_miou.by_seed == pytest.approx({0: 0.1, 1: 0.07})
    assert entry.flat_ap.by_seed == pytest.approx({1: 0.36 - 0.4}), "of what was measured"
    assert sum(entry.histogram) == pytest.approx(1) and entry.histogram[:10] == [0] * 10
    found = {(group.kind, group.name): group for group in entry.groups}
    texture, other = found["classes", "texture classes"], found["classes", "other classes"]
    assert (texture.share, texture.mean.mean) == (0.25, pytest.approx(0.75))
    assert (other.share, other.mean.mean) == (0.75, pytest.approx(0.3))
    assert found["outcome", "right only with views"].share == pytest.approx(0.1)
    assert found["views", "2 views"].mean.mean == pytest.approx(0.45)
    assert ("class", "bed") not in found, "no point of it is seen"


def test_without_texture_classes_gates_are_told_by_class(tmp_path):
    arms = arms_of(tmp_path, FakeRun(evaluation={"gate": gate_table()}))
    kinds = {group.kind for group in gate_entries(arms, None)["staged"].groups}
    assert kinds == {"views", "distance", "outcome", "class"}


# ----------------------------------------------------------------------- against a fixed gate


def beside(root, *fakes):
    arms = arms_of(root, *fakes)
    staged = find_role(arms, "staged")
    return judge_fusion(staged), beside_fixed_gate(judge_fusion(staged), staged, arms)


def staged_and_half(*gains):
    """Seeds of both, the staged one's mIoU higher by so much."""
    return [
        FakeRun(arm=arm, seed=seed, miou=0.6 + (gain if arm == "staged" else 0.0))
        for seed, gain in enumerate(gains)
        for arm in ("staged", "gate_half")
    ]


@pytest.mark.parametrize(
    ("gains", "told"),
    [
        ((0.05, 0.04, 0.06), "The learned gate beats α = 0.5."),
        ((-0.01, 0.0, -0.02), "The learned gate does not beat α = 0.5."),
        ((0.05, -0.04, 0.01), "does not beat α = 0.5 by more than the spread over seeds."),
        ((0.05, 0.04), "Too few seeds to say that the learned gate beats α = 0.5."),
        ((-0.05,), "The learned gate does not beat α = 0.5."),
    ],
)
def test_a_learned_gate_against_a_fixed_one(tmp_path, gains, told):
    plain, verdict = beside(tmp_path, *staged_and_half(*gains))
    assert verdict.evidence.endswith(told) and verdict.evidence.startswith(plain.evidence.rstrip())
    assert verdict.outcome == plain.outcome, "the criterion is the range's and the views'"
    figures = verdict.figures["learned minus fixed"]
    assert figures["difference"] == pytest.approx(dict(enumerate(gains)))


def test_a_gate_from_outside_is_not_called_learned(tmp_path):
    fakes = staged_and_half(0.05, 0.04, 0.06)
    folders = [fake.write(tmp_path) for fake in fakes]
    for folder in folders:
        name_parts(folder, gate="my_rooms.networks:cosine")
    arms = group_runs([load_run(folder) for folder in folders])
    staged = find_role(arms, "staged")
    told = beside_fixed_gate(judge_fusion(staged), staged, arms).evidence
    assert "Gate my_rooms.networks:cosine against fixed: " in told
    assert told.endswith("The gate my_rooms.networks:cosine beats α = 0.5.") and "earned" not in told


def test_no_fixed_gate_no_comparison(tmp_path):
    _, verdict = beside(tmp_path, FakeRun(), FakeRun(arm="baseline"))
    assert verdict.evidence.endswith(
        "Not compared with a fixed gate: no arm with α = 0.5 is among the runs."
    )
    assert "learned minus fixed" not in verdict.figures


def test_a_fixed_gate_whose_tower_came_of_another_folder_is_compared(tmp_path):
    folders = [FakeRun(arm=arm).write(tmp_path) for arm in ("staged", "gate_half")]
    for folder, place in zip(folders, ("a", "b"), strict=True):
        set_in_config(folder, f"{place}/clip.pt", "model", "tower", "pretrained")
    arms = group_runs([load_run(folder) for folder in folders])
    staged = find_role(arms, "staged")
    assert "learned minus fixed" in beside_fixed_gate(judge_fusion(staged), staged, arms).figures


def test_a_fixed_gate_on_other_terms_is_not_compared(tmp_path):
    shorter = FakeRun(arm="gate_half", epochs=20)
    _, verdict = beside(tmp_path, FakeRun(), shorter)
    assert "Not compared with a fixed gate:" in verdict.evidence and "length" in verdict.evidence


def test_a_gate_that_is_not_judged_is_not_compared(tmp_path):
    plain, verdict = beside(tmp_path, FakeRun(gate_learned=False), FakeRun(arm="gate_half"))
    assert verdict == plain and verdict.outcome == "not judged"


# ------------------------------------------------------------------------- where fusion hurts


def by_sight(near, far):
    return {
        "by_distance": {"under 1 m": {"miou": near}, "over 3 m": {"miou": far, "mask_coverage": far}}
    }


def test_where_fusion_hurts_comes_first(tmp_path):
    fakes = [
        FakeRun(arm=arm, seed=seed, miou=miou, evaluation=by_sight(near, far))
        for arm, miou, near, far in (("staged", 0.6, 0.8, 0.3), ("without_views", 0.5, 0.5, 0.4))
        for seed in (0, 1)
    ]
    arms = arms_of(tmp_path, *fakes, FakeRun(arm="baseline", epochs=20))
    (found,) = fusion_differences(arms)
    assert (found.arm, found.rival) == ("staged", "without_views"), "a shorter baseline is no fair rival"
    worst, best = found.semantics[0], found.semantics[-1]
    assert (worst.kind, worst.name, worst.figure) == ("distance", "over 3 m", "mIoU")
    assert worst.difference.mean == pytest.approx(-0.1) and worst.difference.spread == pytest.approx(0)
    assert (best.name, best.arm, best.rival) == ("under 1 m", 0.8, 0.5)
    assert {one.name for one in found.semantics if one.kind == "class"} >= {"door", "chair"}
    assert found.masks[0].figure == "mask coverage"
    assert found.masks[0].difference.by_seed == pytest.approx({0: -0.1, 1: -0.1})


def test_groups_of_other_points_are_not_subtracted(tmp_path):
    """What is seen depends on how many views an evaluation reads."""
    few, many = ({"seen": {"points": points, "miou": 0.5}} for points in (1000, 6000))
    fakes = [FakeRun(evaluation=few), FakeRun(arm="without_views", evaluation=many)]
    fakes.append(FakeRun(arm="baseline", evaluation=few))
    told = {
        d.rival: {one.name for one in d.semantics} for d in fusion_differences(arms_of(tmp_path, *fakes))
    }
    assert "all points" in told["without_views"] and "seen by a view" not in told["without_views"]
    assert "seen by a view" in told["baseline"]


def test_a_rival_that_differs_in_more_than_images_shows_no_difference(tmp_path):
    folders = [FakeRun(arm=arm).write(tmp_path) for arm in ("staged", "without_views", "baseline")]
    for folder, dim in zip(folders, (96, 48, 96), strict=True):
        set_in_config(folder, {"dim": dim}, "model", "fusion")
    arms = group_runs([load_run(folder) for folder in folders])
    assert [found.rival for found in fusion_differences(arms)] == ["baseline"]


def test_only_pairs_of_seeds_that_were_trained_to_their_end_count(tmp_path):
    rival = FakeRun(arm="without_views", seed=1)
    assert fusion_differences(arms_of(tmp_path, FakeRun(seed=0), rival)) == []
    assert (
        fusion_differences(arms_of(tmp_path / "no", FakeRun(arm="naive"), FakeRun(arm="baseline"))) == []
    )


def test_the_page_shows_gates_and_where_fusion_hurts(tmp_path):
    fakes = [FakeRun(evaluation={"gate": gate_table(), **by_sight(0.8, 0.3)})]
    fakes += [FakeRun(arm="without_views", evaluation=by_sight(0.5, 0.4)), FakeRun(arm="gate_half")]
    report = write_report([fake.write(tmp_path) for fake in fakes], tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert report.gate and report.fusion_differences
    for text in ("The gate, point by point", "class right only with views", "the same within a scene",
                 "Where fusion helps and hurts", "cameras over 3 m away",
                 "Share of seen points by their gate", "BiFusion, gate fixed at 0.5"):  # fmt: skip
        assert text in page, text
