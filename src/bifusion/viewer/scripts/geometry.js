// Vectors of three numbers, and 4 × 4 matrices by columns, as WebGL takes them.

const add = (a, b) => [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
const subtract = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const scaled = (a, s) => [a[0] * s, a[1] * s, a[2] * s];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const norm = (a) => Math.hypot(a[0], a[1], a[2]);
const unit = (a) => scaled(a, 1 / (norm(a) || 1));
const mixed = (a, b, t) => a.map((value, i) => value + (b[i] - value) * t);
const clamped = (value, low, high) => Math.min(high, Math.max(low, value));

function perspective(fovY, aspect, near, far) {
  const f = 1 / Math.tan(fovY / 2), depth = near - far;
  return [f / aspect, 0, 0, 0, 0, f, 0, 0, 0, 0, (far + near) / depth, -1, 0, 0, (2 * far * near) / depth, 0];
}

/** World to a camera at `eye` that looks along `forward`, with `right` and `up` (all unit vectors). */
function viewing(eye, right, up, forward) {
  const back = scaled(forward, -1), rows = [right, up, back];
  const columns = [0, 1, 2].flatMap((a) => [right[a], up[a], back[a], 0]);
  return [...columns, ...rows.map((row) => -dot(row, eye)), 1];
}

function product(a, b) {
  const out = new Array(16).fill(0);
  for (let column = 0; column < 4; column++) {
    for (let row = 0; row < 4; row++) {
      for (let k = 0; k < 4; k++) out[4 * column + row] += a[4 * k + row] * b[4 * column + k];
    }
  }
  return out;
}

/** Clip coordinates of a point, [x, y, z, w]. */
function clipped(matrix, p) {
  return [0, 1, 2, 3].map((r) => matrix[r] * p[0] + matrix[4 + r] * p[1] + matrix[8 + r] * p[2] + matrix[12 + r]);
}
