// Agreement of a restored face with the photograph: back-projection and the blending mask
// (runtime/faces/blend.py, `back_project`, `consistency` and `face_mask`).
#pragma once

#include "interpolation.h"
#include "resample.h"

namespace dic {

// One round of back-projection: faces += enlarged(target - reduced).
struct ProjectArguments {
  unsigned char* faces;          // (faces, side, side, 3), changed in place
  const unsigned char* targets;  // of the photograph, each (small, small, 3)
  const unsigned char* reduced;  // the faces, at the same size and places
  const ResizeRecord* jobs;      // which reduced the faces: `target` and `size`
  int32_t side;
  int32_t lanczos;  // 1: INTER_LANCZOS4, 0: INTER_CUBIC
};

// Of one column or row of a tile: first pixel of the small picture, and the weights from there on.
struct Axis {
  int first;
  float weights[8];  // of INTER_CUBIC the first four
};

DIC_BOTH int project_shared() { return 2 * TILE * static_cast<int>(sizeof(Axis)); }

// Grid: (tiles of a face, faces).
template <class Block>
DIC_BOTH void project(const Block& block, const ProjectArguments& a) {
  const ResizeRecord& job = a.jobs[block.y];
  const int small = job.size, tiles = (a.side + TILE - 1) / TILE;
  const int left = block.x % tiles * TILE, top = block.x / tiles * TILE;
  const int taps = a.lanczos ? 8 : 4;
  const unsigned char* target = a.targets + job.target;
  const unsigned char* reduced = a.reduced + job.target;
  unsigned char* face = a.faces + static_cast<int64_t>(block.y) * a.side * a.side * 3;
  Axis* columns = reinterpret_cast<Axis*>(block.shared);
  Axis* rows = columns + TILE;
  block.each(2 * TILE, [&](int i) {
    Axis& axis = columns[i];
    const float x = position(i < TILE ? left + i : top + i - TILE, small, a.side, &axis.first);
    axis.first -= taps / 2 - 1;
    if (a.lanczos) {
      lanczos_weights(x, axis.weights);
    } else {
      cubic_weights(x, axis.weights);
    }
  });
  block.each(TILE * TILE, [&](int i) {
    const int x = left + i % TILE, y = top + i / TILE;
    if (x >= a.side || y >= a.side) return;
    const Axis &across = columns[i % TILE], &down = rows[i / TILE];
    float corrections[3] = {0, 0, 0};
    for (int j = 0; j < taps; ++j) {
      const int row = clamp(down.first + j, 0, small - 1) * small;
      float sums[3] = {0, 0, 0};
      for (int k = 0; k < taps; ++k) {
        const int at = (row + clamp(across.first + k, 0, small - 1)) * 3;
        for (int c = 0; c < 3; ++c) {
          sums[c] += static_cast<float>(target[at + c] - reduced[at + c]) * across.weights[k];
        }
      }
      for (int c = 0; c < 3; ++c) corrections[c] += sums[c] * down.weights[j];
    }
    unsigned char* rgb = face + (y * a.side + x) * 3;
    for (int c = 0; c < 3; ++c) rgb[c] = to_byte(nearest(static_cast<float>(rgb[c]) + corrections[c]));
  });
}

constexpr int BLUR_TAPS = 7;
constexpr int MOST_COMPARED = 16;  // pixels: side of what the network has seen

// One face's mask.
struct MaskRecord {
  int64_t compared;  // where the two small pictures begin, in bytes
  int32_t size;      // their side, at most MOST_COMPARED
  int32_t outlined;  // 0: landmarks are missing or uncertain, the square alone
  float opacity;
  int32_t unused;
};

struct MaskArguments {
  float* masks;                   // (faces, side, side)
  const unsigned char* photos;    // of the photograph, each (size, size, 3)
  const unsigned char* restored;  // of the restored face
  const int16_t* spans;           // (faces, side, 2): each row's first and last pixel of the outline
  const MaskRecord* jobs;
  int32_t side;
  Fade difference, feather, outline;
  float blur[BLUR_TAPS];
};

constexpr int MASK_PIXELS = 4 * THREADS;  // of a block

DIC_BOTH int mask_shared() { return 2 * MOST_COMPARED * MOST_COMPARED * 4; }

// BORDER_REFLECT_101.
DIC_BOTH int reflected(int at, int size) {
  if (size == 1) return 0;
  while (at < 0 || at >= size) at = at < 0 ? -at : 2 * size - 2 - at;
  return at;
}

// Distance to the nearest pixel of the outline, in sides; as far as can be if it has none.
DIC_BOTH float outline_distance(const int16_t* spans, int side, int x, int y) {
  int nearest_square = 1 << 28;
  for (int row = 0; row < side; ++row) {
    const int low = spans[2 * row], high = spans[2 * row + 1];
    if (low > high) continue;  // none in this row
    const int dx = greatest(greatest(low - x, x - high), 0), dy = row - y;
    nearest_square = least(nearest_square, dx * dx + dy * dy);
  }
  return sqrtf(static_cast<float>(nearest_square)) / static_cast<float>(side);
}

// Distance from the centre to a rounded square's edge in half sides: a superellipse of exponent 8.
DIC_BOTH float square_distance(int side, int x, int y) {
  float sum = 0;
  for (int at : {y, x}) {
    const float across = (static_cast<float>(at) + 0.5f) / static_cast<float>(side) * 2.f - 1.f;
    const float second = across * across, fourth = second * second;
    sum += fourth * fourth;
  }
  return sqrtf(sqrtf(sqrtf(sum)));
}

// Grid: (pixels of a mask / MASK_PIXELS, faces).
template <class Block>
DIC_BOTH void mask(const Block& block, const MaskArguments& a) {
  const MaskRecord& job = a.jobs[block.y];
  const int size = job.size, small = size * size;
  const unsigned char* photo = a.photos + job.compared;
  const unsigned char* restored = a.restored + job.compared;
  const int64_t pixels = static_cast<int64_t>(a.side) * a.side;
  float* difference = reinterpret_cast<float*>(block.shared);
  float* across = difference + MOST_COMPARED * MOST_COMPARED;
  block.each(small, [&](int i) {
    float sum = 0;
    for (int c = 0; c < 3; ++c) {
      const int by = photo[i * 3 + c] - restored[i * 3 + c];
      sum += static_cast<float>(by < 0 ? -by : by);
    }
    difference[i] = sum / 3.f;
  });
  block.each(small, [&](int i) {
    float sum = 0;
    for (int k = 0; k < BLUR_TAPS; ++k) {
      const int x = reflected(i % size + k - BLUR_TAPS / 2, size);
      sum += a.blur[k] * difference[i - i % size + x];
    }
    across[i] = sum;
  });
  block.each(small, [&](int i) {
    float sum = 0;
    for (int k = 0; k < BLUR_TAPS; ++k) {
      const int y = reflected(i / size + k - BLUR_TAPS / 2, size);
      sum += a.blur[k] * across[y * size + i % size];
    }
    difference[i] = sum;
  });
  const int64_t start = static_cast<int64_t>(block.x) * MASK_PIXELS;
  const int count = static_cast<int>(pixels - start < MASK_PIXELS ? pixels - start : MASK_PIXELS);
  block.each(count, [&](int i) {
    const int x = static_cast<int>((start + i) % a.side), y = static_cast<int>((start + i) / a.side);
    const Taps<2> right = linear_taps(x, size, a.side), down = linear_taps(y, size, a.side);
    const int next_x = least(right.first + 1, size - 1), next_y = least(down.first + 1, size - 1);
    float rows[2];
    for (int j = 0; j < 2; ++j) {
      const float* row = difference + (j ? next_y : down.first) * size;
      rows[j] = row[right.first] * right.weights[0] + row[next_x] * right.weights[1];
    }
    const float differs = rows[0] * down.weights[0] + rows[1] * down.weights[1];
    float weight = faded(square_distance(a.side, x, y), a.feather);
    if (job.outlined) {
      const int16_t* spans = a.spans + static_cast<int64_t>(block.y) * a.side * 2;
      weight *= faded(outline_distance(spans, a.side, x, y), a.outline);
    }
    a.masks[block.y * pixels + start + i] = weight * faded(differs, a.difference) * job.opacity;
  });
}

}  // namespace dic
