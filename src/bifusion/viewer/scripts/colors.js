// What colour each point has, by what is to be seen.

const NOTHING = [128, 131, 136];
const PALE = [203, 206, 211];
const RIGHT = [82, 160, 118];
const WRONG = [221, 84, 62];
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis
const DIMMED = 0.42;

function rampColor(share) {
  const at = clamped(share, 0, 1) * (RAMP.length - 1), k = Math.min(RAMP.length - 2, Math.floor(at));
  return mixed(RAMP[k], RAMP[k + 1], at - k).map(Math.round);
}

/** The ways to colour that this scan allows: key → [name, what its colours mean]. */
function colorModes(scan) {
  const modes = {}, sources = Object.values(scan.sources);
  if (scan.columns.r) modes.photo = ["Photo", ""];
  if (sources.length) {
    modes.class = ["Class", "The class of each point."];
    modes.instance = ["Object", "Each object in a colour of its own; what is no object is pale."];
  }
  if (sources.some((source) => source.objects.some((one) => one.score !== null))) {
    modes.confidence = ["Confidence", "The score of the object that a point belongs to; grey: no object."];
  }
  if (scan.columns.seen) modes.seen = ["Views", "How many of the views see a point; grey: none."];
  if (scan.words.length) modes.word = ["Words", "How well each part fits the word that is searched for; grey: no view sees it."];
  if (sources.length === 2) modes.difference = ["Errors", "Where the predicted class is not the annotated one."];
  return modes;
}

/** A table of colours, three numbers each, and the column whose values choose among them. */
function paletteOf(scan, source, mode) {
  if (mode === "word") {
    const table = Array.from(scan.word.levels, (level) => (level ? rampColor((level - 1) / 254) : NOTHING));
    return [table, scan.columns.part];
  }
  if (mode === "seen") {
    const most = scan.views.length;
    const table = Array.from({ length: 256 }, (_, n) => (n ? rampColor(most > 1 ? (n - 1) / (most - 1) : 1) : NOTHING));
    return [table, scan.columns.seen];
  }
  if (mode === "class") return [[NOTHING, ...scan.classes.map((one) => one.color)], source.classOf];
  if (mode === "instance") return [[PALE, ...source.objects.map((one) => one.color)], source.objectOf];
  const scores = source.objects.map((one) => (one.score === null ? NOTHING : rampColor(one.score)));
  return [[NOTHING, ...scores], source.objectOf];
}

/** (4 N) uint8 as `Renderer.setColors` takes them, of one pane. */
function colorsOf(scan, source, mode, hidden, isMarked) {
  const count = scan.points, out = new Uint8Array(4 * count), { r, g, b } = scan.columns;
  const photo = mode === "photo" || (!source && mode !== "seen" && mode !== "word");
  const predicted = scan.sources.predicted, annotated = scan.sources.annotated;
  const [table, column] = photo || mode === "difference" ? [] : paletteOf(scan, source, mode);
  for (let i = 0, at = 0; i < count; i++, at += 4) {
    if (source && hidden[source.classOf[i]]) continue;
    let color;
    if (photo) {
      out[at] = r ? r[i] : NOTHING[0]; out[at + 1] = g ? g[i] : NOTHING[1]; out[at + 2] = b ? b[i] : NOTHING[2];
    } else {
      if (mode !== "difference") color = table[column[i]];
      else if (!annotated.classOf[i]) color = NOTHING;
      else color = predicted.classOf[i] === annotated.classOf[i] ? RIGHT : WRONG;
      out[at] = color[0]; out[at + 1] = color[1]; out[at + 2] = color[2];
    }
    out[at + 3] = 128;
  }
  if (isMarked) mark(out, isMarked);
  return out;
}

/** The marked points keep their colours, the others step back. */
function mark(colors, isMarked) {
  for (let i = 0, at = 0; at < colors.length; i++, at += 4) {
    if (!colors[at + 3]) continue;
    if (isMarked(i)) { colors[at + 3] = 255; continue; }
    const grey = (0.3 * colors[at] + 0.59 * colors[at + 1] + 0.11 * colors[at + 2]) * DIMMED + 28;
    for (let k = 0; k < 3; k++) colors[at + k] = DIMMED * colors[at + k] + (1 - DIMMED) * grey;
  }
}
