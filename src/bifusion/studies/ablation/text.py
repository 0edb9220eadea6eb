"""The fixed sentences of the ablation's page."""

FINDINGS = (
    "Computed from the figures below by the rule below; nothing is written by hand. With {tests} "
    "judgements at p < {level}, about {chance} would come out of chance alone."
)
RIVALS = "The same judgement on other models and plans, beside the staged recipe."
GRID = (
    "Every arm at every point of the grid: the median over the seeds and, below it, their standard "
    "deviation or their smallest and largest; steps, spikes and alarms are sums over the seeds, with "
    "each below. The difference of accuracy is a mean, paired by seed. A range ratio has two parts: "
    "entering the heads (whose span stands below) → after heads and FiLM."
)
CHARTS = (
    "A dot is a point of the grid: the mean over the seeds, bars their standard deviation. The names "
    "above show and hide a point."
)
READING = {
    "Raw non-finite step": (
        "A NaN or infinity in a loss, activation, gradient or state, counted before the guard kept it "
        "from the weights."
    ),
    "Spike": "An alarm of the run’s own rules over a leap of the loss or of the gradient norm.",
    "Alarm": (
        "An alarm of those rules over vanishing or exploding gradients, updates, gradient ratios, "
        "feature ranges or the loss scale. Alarms over what is learnt or fed (gate, views, conflicting "
        "losses) are in the JSON file."
    ),
    "Spread of gradient norms": (
        "Standard deviation (from the median deviation) of the norm’s logarithm around its running "
        "median, as a factor: ×/÷ 1.26 means up or down by a quarter."
    ),
    "Gate": "Mean over validation points that a view sees, at the last checkpoint.",
    "Stopped": "The guard ended the run, as faults did not end. That is a result, and is shown.",
    "One run for two points": (
        "Arms without a 2D head are trained once for all ranges and shown for each: nothing of theirs "
        "depends on it."
    ),
    "Guard": (
        "All runs train under the guard, so weights never take a non-finite step; without it some of "
        "them would not have come to their end. Raw counts say what it met."
    ),
}
