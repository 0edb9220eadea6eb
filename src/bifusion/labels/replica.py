"""The 101 classes of the Replica dataset (Straub et al., 2019), in the order of their ids, 1 … 101.

Names and ids are those that every scene's `habitat/info_semantic.json` lists under "classes".
"""

CLASS_NAMES = (
    "backpack", "base-cabinet", "basket", "bathtub", "beam", "beanbag", "bed", "bench", "bike", "bin",
    "blanket", "blinds", "book", "bottle", "box", "bowl", "camera", "cabinet", "candle", "chair",
    "chopping-board", "clock", "cloth", "clothing", "coaster", "comforter", "computer-keyboard", "cup",
    "cushion", "curtain", "ceiling", "cooktop", "countertop", "desk", "desk-organizer",
    "desktop-computer", "door", "exercise-ball", "faucet", "floor", "handbag", "hair-dryer", "handrail",
    "indoor-plant", "knife-block", "kitchen-utensil", "lamp", "laptop", "major-appliance", "mat",
    "microwave", "monitor", "mouse", "nightstand", "pan", "panel", "paper-towel", "phone", "picture",
    "pillar", "pillow", "pipe", "plant-stand", "plate", "pot", "rack", "refrigerator", "remote-control",
    "scarf", "sculpture", "shelf", "shoe", "shower-stall", "sink", "small-appliance", "sofa", "stair",
    "stool", "switch", "table", "table-runner", "tablet", "tissue-paper", "toilet", "toothbrush",
    "towel", "tv-screen", "tv-stand", "umbrella", "utensil-holder", "vase", "vent", "wall",
    "wall-cabinet", "wall-plug", "wardrobe", "window", "rug", "logo", "bag", "set-of-clothing",
)  # fmt: skip
