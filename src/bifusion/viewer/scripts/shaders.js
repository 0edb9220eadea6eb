// Points as discs that also write which point they are; then light and outlines over the whole picture.

const POINT_VERTEX = `#version 300 es
precision highp float;
layout(location = 0) in vec3 position;  // of the box, 0 … 1
layout(location = 1) in vec4 color;     // alpha: 0 hidden, 0.5 shown, 1 marked
uniform mat4 viewProjection;
uniform vec3 low, size;
uniform vec3 pointSize;                 // pixels · metres, smallest and largest in pixels
uniform vec4 inner;                     // x and y between which walls are kept: low x, high x, low y, high y
uniform vec2 heights;                   // always kept below, never kept above
flat out vec4 shade;
flat out uint number;
flat out float pixels;
void main() {
  vec3 p = low + position * size;
  gl_Position = viewProjection * vec4(p, 1.0);
  pixels = clamp(pointSize.x / max(gl_Position.w, 1e-3), pointSize.y, pointSize.z);
  gl_PointSize = pixels;
  shade = color;
  number = uint(gl_VertexID) + 1u;
  bool outside = p.x < inner.x || p.x > inner.y || p.y < inner.z || p.y > inner.w;
  if (color.a == 0.0 || p.z > heights.y || (outside && p.z > heights.x)) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
}`;

const POINT_FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
flat in vec4 shade;
flat in uint number;
flat in float pixels;
layout(location = 0) out vec4 shown;
layout(location = 1) out uint point;
void main() {
  vec2 offset = 2.0 * gl_PointCoord - 1.0;
  if (pixels > 3.5 && dot(offset, offset) > 1.0) discard;
  shown = shade;
  point = number;
}`;

const SCREEN_VERTEX = `#version 300 es
void main() {
  vec2 corner = vec2(gl_VertexID == 1 ? 3.0 : -1.0, gl_VertexID == 2 ? 3.0 : -1.0);
  gl_Position = vec4(corner, 0.0, 1.0);
}`;

// Eye-dome lighting (Boucheny 2009): darker where neighbours lie nearer to the viewer. Where nearly all of
// them do, the pixel is a hole between points and takes their colour. Of a perspective picture the depth
// buffer holds a − b / distance, so that ratios of distances need neither logarithms nor more than one division.
const SCREEN_FRAGMENT = `#version 300 es
precision highp float;
uniform sampler2D colors, depths;
uniform vec2 inverse;  // 1 / distance = x − y · depth
uniform vec3 light;    // strength (0: the bare points), reach in pixels, whether anything is marked
uniform vec3 above, below, accent;
uniform float height;
out vec4 result;
ivec2 at, last;
float here, nearer = 0.0, count = 0.0;
void look(vec2 way) {
  ivec2 there = clamp(at + ivec2(way * light.y), ivec2(0), last);
  float gap = (inverse.x - inverse.y * texelFetch(depths, there, 0).r) * here - 1.0;
  nearer += clamp(gap - 0.003, 0.0, 0.09);
  count += step(0.02, gap);
}
vec3 around = vec3(0.0);
float filled = 0.0, marked = 0.0;
void take(vec2 way) {
  vec4 color = texelFetch(colors, clamp(at + ivec2(way * light.y), ivec2(0), last), 0);
  around += color.rgb * step(0.1, color.a);
  filled += step(0.1, color.a);
  marked += step(0.75, color.a);
}
void main() {
  at = ivec2(gl_FragCoord.xy);
  vec4 own = texelFetch(colors, at, 0);
  vec3 ground = mix(below, above, gl_FragCoord.y / height);
  result = vec4(own.a == 0.0 ? ground : own.rgb, 1.0);
  if (light.x == 0.0) return;
  last = textureSize(colors, 0) - 1;
  here = own.a == 0.0 ? 1e6 : 1.0 / (inverse.x - inverse.y * texelFetch(depths, at, 0).r);
  look(vec2(2.0, 0.0)); look(vec2(-2.0, 0.0)); look(vec2(0.0, 2.0)); look(vec2(0.0, -2.0));
  bool hole = count > 2.5;
  if (hole) { look(vec2(1.5, 1.5)); look(vec2(-1.5, 1.5)); look(vec2(1.5, -1.5)); look(vec2(-1.5, -1.5)); hole = count > 5.5; }
  if (hole || light.z > 0.0) {
    take(vec2(2.0, 0.0)); take(vec2(-2.0, 0.0)); take(vec2(0.0, 2.0)); take(vec2(0.0, -2.0));
    if (hole && filled > 0.0) { result = vec4(around / filled, 1.0); return; }
    if (marked > 0.0 && own.a < 0.75) { result = vec4(accent, 1.0); return; }
  }
  if (own.a > 0.0) result = vec4(own.rgb * exp(-light.x * nearer), 1.0);
}`;

// Triangles take class, object and mark of their last corner, which is also the point that they tell;
// what is cut away ends inside of them. Photographs are blended between the corners.
const FACE_VERTEX = `#version 300 es
precision highp float;
layout(location = 0) in vec3 position;
layout(location = 1) in vec4 color;
uniform mat4 viewProjection;
uniform vec3 low, size;
flat out vec4 shade;
flat out uint number;
out vec3 blended, place;
void main() {
  place = low + position * size;
  gl_Position = viewProjection * vec4(place, 1.0);
  shade = color;
  blended = color.rgb;
  number = uint(gl_VertexID) + 1u;
}`;

const FACE_FRAGMENT = `#version 300 es
precision highp float;
precision highp int;
flat in vec4 shade;
flat in uint number;
in vec3 blended, place;
uniform vec3 eye;
uniform vec4 inner;
uniform vec2 heights;
uniform float blending;
layout(location = 0) out vec4 shown;
layout(location = 1) out uint point;
void main() {
  vec3 normal = cross(dFdx(place), dFdy(place)), ray = eye - place;
  float facing = abs(dot(normal, ray)) / max(length(normal) * length(ray), 1e-20);
  bool outside = place.x < inner.x || place.x > inner.y || place.y < inner.z || place.y > inner.w;
  if (shade.a == 0.0 || place.z > heights.y || (outside && place.z > heights.x)) discard;
  shown = vec4(mix(shade.rgb, blended, blending) * (0.82 + 0.18 * facing), shade.a);
  point = number;
}`;
