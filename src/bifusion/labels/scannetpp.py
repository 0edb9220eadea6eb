"""The 100 classes of the ScanNet++ semantic benchmark (Yeshwanth et al., ICCV 2023), in its own order.

Names and order are those of `metadata/semantic_benchmark/top100.txt`; the stuff is what
`top100_instance.txt`, the 84 classes of the instance benchmark, leaves out.
"""

CLASS_NAMES = (
    "wall", "ceiling", "floor", "table", "door", "ceiling lamp", "cabinet", "blinds", "curtain",
    "chair", "storage cabinet", "office chair", "bookshelf", "whiteboard", "window", "box",
    "window frame", "monitor", "shelf", "doorframe", "pipe", "heater", "kitchen cabinet", "sofa",
    "windowsill", "bed", "shower wall", "trash can", "book", "plant", "blanket", "tv",
    "computer tower", "kitchen counter", "refrigerator", "jacket", "electrical duct", "sink", "bag",
    "picture", "pillow", "towel", "suitcase", "backpack", "crate", "keyboard", "rack", "toilet",
    "paper", "printer", "poster", "painting", "microwave", "board", "shoes", "socket", "bottle",
    "bucket", "cushion", "basket", "shoe rack", "telephone", "file folder", "cloth", "blind rail",
    "laptop", "plant pot", "exhaust fan", "cup", "coat hanger", "light switch", "speaker",
    "table lamp", "air vent", "clothes hanger", "kettle", "smoke detector", "container",
    "power strip", "slippers", "paper bag", "mouse", "cutting board", "toilet paper", "paper towel",
    "pot", "clock", "pan", "tap", "jar", "soap dispenser", "binder", "bowl", "tissue box",
    "whiteboard eraser", "toilet brush", "spray bottle", "headphones", "stapler", "marker",
)  # fmt: skip

STUFF_NAMES = (
    "wall", "ceiling", "floor", "window frame", "doorframe", "pipe", "windowsill", "shower wall",
    "kitchen counter", "electrical duct", "paper", "board", "cloth", "blind rail", "air vent",
    "clothes hanger",
)  # fmt: skip
"""The 16 that are no instances there."""
