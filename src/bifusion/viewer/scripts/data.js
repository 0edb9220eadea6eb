// The scan as the page holds it: what packing.py wrote, taken apart and shuffled.

/** Bytes of base64 text; the newer way is several times as fast where a browser has it. */
function bytesOfBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function inflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** One column of `count` values: differences modulo its width, lowest bytes of all values first. */
function decodeColumn(bytes, start, count, width, order) {
  const kinds = { 1: Uint8Array, 2: Uint16Array, 4: Uint32Array };
  const inOrder = new kinds[width](count), column = new kinds[width](count);
  let value = 0;
  for (let i = 0; i < count; i++) {
    let difference = 0;
    for (let plane = width - 1; plane >= 0; plane--) {
      difference = (difference << 8) | bytes[start + plane * count + i];
    }
    value = value + difference;
    inOrder[i] = value;
    value = inOrder[i];
  }
  for (let i = 0; i < count; i++) column[i] = inOrder[order[i]];
  return column;
}

/** A permutation of 0 … count − 1, the same each time; its first k are a sample of all. */
function shuffledOrder(count) {
  const order = new Uint32Array(count);
  for (let i = 0; i < count; i++) order[i] = i;
  let state = 0x9e3779b9;
  for (let i = count - 1; i > 0; i--) {
    state = (state + 0x6d2b79f5) | 0; // mulberry32
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    const j = ((t ^ (t >>> 14)) >>> 0) % (i + 1);
    const kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
  return order;
}

/**
 * The scan: what JSON says of it, and `columns` by name. `position` interleaves x, y, z as uint16 of the
 * box; `sources` ("predicted", "annotated") have `objects`, and `classOf`, `objectOf` of each point.
 */
async function loadScan() {
  const scan = JSON.parse(document.getElementById("scan").textContent);
  const element = document.getElementById("columns");
  const bytes = await inflated(bytesOfBase64(element.textContent.trim()));
  element.remove();
  const order = shuffledOrder(scan.points), columns = {};
  let start = 0;
  for (const [name, width] of scan.columns) {
    columns[name] = decodeColumn(bytes, start, scan.points, width, order);
    start += width * scan.points;
  }
  scan.columns = columns;
  scan.position = interleaved([columns.x, columns.y, columns.z], Uint16Array);
  for (const [name, source] of Object.entries(scan.sources)) {
    source.name = name;
    source.classOf = columns[name + "_class"];
    source.objectOf = columns[name + "_object"];
    source.pointsOfClass = countedValues(source.classOf, scan.classes.length + 1);
  }
  for (const word of scan.words) word.levels = bytesOfBase64(word.levels);
  scan.word = scan.words[0]; // the one that is searched for
  matchColors(scan);
  return scan;
}

/** Annotated objects take the colour of the predicted object that most of their points are in. */
function matchColors(scan) {
  const { predicted, annotated } = scan.sources;
  if (!predicted || !annotated) return;
  const size = annotated.objects.length + 1, shared = new Map(), best = new Map();
  for (let i = 0; i < scan.points; i++) {
    if (!predicted.objectOf[i] || !annotated.objectOf[i]) continue;
    const pair = predicted.objectOf[i] * size + annotated.objectOf[i];
    shared.set(pair, (shared.get(pair) || 0) + 1);
  }
  for (const [pair, count] of shared) {
    const object = pair % size, one = annotated.objects[object - 1];
    if (2 * count > one.points && count > (best.get(object) || 0)) {
      best.set(object, count);
      one.color = predicted.objects[Math.floor(pair / size) - 1].color;
    }
  }
}

function interleaved(parts, Kind) {
  const whole = new Kind(parts.length * parts[0].length);
  parts.forEach((part, k) => {
    for (let i = 0, at = k; i < part.length; i++, at += parts.length) whole[at] = part[i];
  });
  return whole;
}

function countedValues(values, size) {
  const counts = new Uint32Array(size);
  for (let i = 0; i < values.length; i++) counts[values[i]]++;
  return counts;
}

/** Place of point `i` in metres, scene frame. */
function pointAt(scan, i) {
  return [0, 1, 2].map((a) => scan.low[a] + (scan.position[3 * i + a] / 65535) * scan.size[a]);
}

/** The box of all but a few stray points of the scan. */
function robustBox(scan) {
  const count = Math.min(scan.points, 30000), low = [], high = [];
  for (let axis = 0; axis < 3; axis++) {
    const values = new Uint16Array(count);
    for (let i = 0; i < count; i++) values[i] = scan.position[3 * i + axis];
    values.sort();
    const at = (share) => scan.low[axis] + (values[Math.floor(share * (count - 1))] / 65535) * scan.size[axis];
    low.push(at(0.004));
    high.push(at(0.996));
  }
  return [low, high];
}
