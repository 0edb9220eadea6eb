"""The fixed sentences of the page: what a section shows, what its words mean."""

VERDICTS = (
    "Judged on raw figures, at the last checkpoint. “Indicative”: the figures point there, but there "
    "are too few of them."
)
RESULTS = "At the last checkpoint; mean over seeds and, below it, the standard deviation over them."
ORACLE = "The oracle is the best that any model on these superpoints could reach."
STUDY = (
    "The study's comparison. Nothing here is written by hand: every cell was measured on these runs. "
    "The last column holds what the study feared and what was found of it. Norms and ranges are medians "
    "over steps; a path of the gradient counts while it trains."
)
CURVES = (
    "Faint lines are the steps themselves, thinned so that every spike is kept; strong lines their "
    "running median. Crosses mark steps with a non-finite value."
)
CHIPS = "The names above show and hide a model. Drag to zoom, double-click to see all."
ROOMS = (
    "Validation rooms from above; ceiling and the two near walls are cut away. Dark grey: no class; "
    "pale grey: no instance."
)
TEXTURE = "Images can help there, colour of voxels cannot."
AUDIT = (
    "What voxel colour and geometry alone give away of each group of classes (a probe, against chance), "
    "what image crops give away, and how much of the rooms the views see."
)
CONTROLS = (
    "Controls see the same information another way (3D at a finer voxel, image features alone, the "
    "pixels’ RGB lifted without a tower), or, the inverse one, through a tower that started from random "
    "weights. They show where a gain comes from; they are no rivals and get no verdict on performance."
)
READING = {
    "Stability": (
        "20 epochs in a row without a non-finite loss, activation or gradient, counted before any guard "
        "acts. A run that its guard stopped fails. Fewer epochs: indicative."
    ),
    "Performance": (
        "mIoU of the last checkpoint above that of OneFormer3D of the same size and, decisive, of the "
        "same BiFusion trained without views; paired by seed. Under 3 seeds, or with a gain smaller "
        "than its own spread, it is indicative. Refused where training and validation share scenes, or "
        "data, length, augmentation or guard differ. Mask3D has no semantic head and competes on AP."
    ),
    "Fusion": (
        "The mean learned gate over validation points that a view sees lies in 0.3 to 0.7, and "
        "withholding the views costs more mIoU than mIoU spreads over seeds. A fixed gate is not judged."
    ),
    "Stage 1": (
        "No raw non-finite step, and gradient norms that scatter from step to step at most 1.5 times as "
        "much as the baseline's in the same epochs."
    ),
    "Stage 2": (
        "2D and 3D features of the same validation point grow closer (cosine), and a point is found "
        "more often among 100 by its 2D feature, for every seed; and less often by 2D features shuffled "
        "between points, since FiLM tells both features the point's place."
    ),
    "2D's real share": (
        "‖g·f2d‖ / (‖g·f2d‖ + ‖(1−g)·f3d‖): what the gate lets through, weighted by how large the "
        "features are."
    ),
    "Spike": (
        "A step over 10 scaled median deviations, and over twice the median, above the 101 finite steps "
        "before it."
    ),
    "Spread of gradient norms": (
        "Standard deviation (from the median deviation) of the norm's logarithm around its running "
        "median, as a factor: ×/÷ 1.26 means up or down by a quarter."
    ),
}
SYNTHETIC = (
    "The rooms are generated. These figures compare models with each other; they say nothing about real "
    "scans. The small image tower was pretrained on labelled crops of further rooms, as CLIP was on "
    "captioned images: models without images have not seen those labels."
)
