// The triangles between the points: unpacked when they are first asked for, and met by a ray.

const ROUNDING = 0.02; // of a triangle, by which a pixel of it may lie beside it

/** (3 F) uint32 corners as the page numbers its points: what packed_faces.py wrote, taken apart again. */
async function loadFaces(scan) {
  const element = document.getElementById("faces"), count = scan.faces;
  const bytes = await inflated(bytesOfBase64(element.textContent.trim()));
  const order = shuffledOrder(scan.points), place = new Uint32Array(scan.points), corners = new Uint32Array(3 * count);
  for (let i = 0; i < order.length; i++) place[order[i]] = i;
  const value = (column, i) => {
    let read = 0;
    for (let plane = 3; plane >= 0; plane--) read = read * 256 + bytes[(4 * column + plane) * count + i];
    return read;
  };
  for (let i = 0, first = 0; i < count; i++) {
    first += value(0, i);
    corners[3 * i] = place[first];
    corners[3 * i + 1] = place[first + value(1, i)];
    corners[3 * i + 2] = place[first + value(2, i)];
  }
  element.remove();
  return corners;
}

/** Which way the place [x, y] of a picture (−1 … 1, y up) lies from the eye that drew it. */
function wayTo([x, y], matrix) {
  const across = (row, share) => [0, 1, 2].map((k) => matrix[4 * k + row] - share * matrix[4 * k + 3]);
  return unit(cross(across(0, x), across(1, y)));
}

/** Where a line from `eye` first meets one of the triangles that end at `point`; null: nowhere. */
function met(scan, corners, point, eye, way) {
  let best = null, nearest = Infinity;
  for (let at = 2; at < corners.length; at += 3) {
    if (corners[at] !== point) continue;
    const [a, b, c] = [at - 2, at - 1, at].map((k) => pointAt(scan, corners[k]));
    const normal = cross(subtract(b, a), subtract(c, a)), steep = dot(normal, way);
    if (!steep) continue;
    const along = dot(normal, subtract(a, eye)) / steep, place = add(eye, scaled(way, along));
    const least = -ROUNDING * dot(normal, normal), from = (p, q) => dot(normal, cross(subtract(q, p), subtract(place, p)));
    const inside = from(a, b) >= least && from(b, c) >= least && from(c, a) >= least;
    if (inside && Math.abs(along) < nearest) [best, nearest] = [place, Math.abs(along)];
  }
  return best;
}
