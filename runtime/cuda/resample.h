// Antialiased bicubic resampling of square pictures, bit-equal to Pillow's
// (runtime/pictures/resample.py, `resize`; Pillow, src/libImaging/Resample.c).
#pragma once

#include "common.h"

namespace dic {

constexpr int TILE = 16;    // pixels of the result's tile that a block computes, each way
constexpr int CHUNK = 64;   // rows of the source at once
constexpr int WEIGHT_BITS = 22;

// One picture, (old, old, 3) → (size, size, 3) bytes.
struct ResizeRecord {
  int64_t source, target;  // where it begins, in bytes
  int32_t old, size;
};

struct ResizeArguments {
  const unsigned char* sources;
  unsigned char* targets;
  const ResizeRecord* jobs;
};

// Keys' kernel with a = -0.5.
DIC_BOTH double keys(double x) {
  x = fabs(x);
  if (x < 1.0) return (1.5 * x - 2.5) * x * x + 1.0;
  if (x < 2.0) return ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0;
  return 0.0;
}

// First source pixel, their number, and their weights in 1/2**22, for pixel `index` of the result.
DIC_BOTH void pillow_weights(int index, int old, int size, int32_t* row) {
  const double scale = static_cast<double>(old) / size;
  const double stretch = scale > 1.0 ? scale : 1.0;
  const double centre = (index + 0.5) * scale, reach = 2.0 * stretch;
  const int first = greatest(static_cast<int>(centre - reach + 0.5), 0);
  const int last = least(static_cast<int>(centre + reach + 0.5), old);
  double total = 0.0;
  for (int i = first; i < last; ++i) total += keys((i - centre + 0.5) / stretch);
  row[0] = first;
  row[1] = last - first;
  for (int i = first; i < last; ++i) {
    const double fixed = keys((i - centre + 0.5) / stretch) / total * (1 << WEIGHT_BITS);
    row[2 + i - first] = static_cast<int32_t>(fixed + (fixed < 0 ? -0.5 : 0.5));
  }
}

// Most source pixels of one pixel along one axis.
DIC_BOTH int most_taps(int old, int size) {
  return (old > size ? (4 * old + size - 1) / size : 4) + 1;
}

// Shared memory: weights of the tile's columns and rows, its sums, and a chunk of shrunk rows.
DIC_BOTH int resize_shared(int old, int size) {
  const int side = least(TILE, size);
  return 2 * side * (most_taps(old, size) + 2) * 4 + side * side * 3 * 4 + CHUNK * side * 3;
}

// Grid: (tiles of the largest result, jobs). Columns first, as Pillow does for squares.
template <class Block>
DIC_BOTH void resize(const Block& block, const ResizeArguments& a) {
  const ResizeRecord& job = a.jobs[block.y];
  const int old = job.old, size = job.size;
  const int tiles = (size + TILE - 1) / TILE;
  if (block.x >= tiles * tiles) return;
  const int left = block.x % tiles * TILE, top = block.x / tiles * TILE;
  const int wide = least(TILE, size - left), high = least(TILE, size - top);
  const unsigned char* source = a.sources + job.source;
  unsigned char* target = a.targets + job.target;
  const int pitch = most_taps(old, size) + 2, side = least(TILE, size);
  int32_t* columns = reinterpret_cast<int32_t*>(block.shared);
  int32_t* rows = columns + side * pitch;
  int32_t* sums = rows + side * pitch;
  unsigned char* shrunk = reinterpret_cast<unsigned char*>(sums + side * side * 3);

  block.each(wide + high, [&](int i) {
    const bool column = i < wide;
    const int at = column ? i : i - wide;
    pillow_weights((column ? left : top) + at, old, size, (column ? columns : rows) + at * pitch);
  });
  block.each(wide * high * 3, [&](int i) { sums[i] = 1 << (WEIGHT_BITS - 1); });
  const int32_t* bottom = rows + (high - 1) * pitch;
  const int end = bottom[0] + bottom[1];
  for (int start = rows[0]; start < end; start += CHUNK) {
    const int count = least(CHUNK, end - start);
    block.each(count * wide, [&](int i) {
      const int y = i / wide, x = i % wide;
      const int32_t* weights = columns + x * pitch;
      const unsigned char* from =
          source + (static_cast<int64_t>(start + y) * old + weights[0]) * 3;
      int rgb[3] = {1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1), 1 << (WEIGHT_BITS - 1)};
      for (int k = 0; k < weights[1]; ++k) {
        for (int c = 0; c < 3; ++c) rgb[c] += weights[2 + k] * from[k * 3 + c];
      }
      for (int c = 0; c < 3; ++c) shrunk[i * 3 + c] = to_byte(rgb[c] >> WEIGHT_BITS);
    });
    block.each(wide * high * 3, [&](int i) {
      const int32_t* weights = rows + i / (wide * 3) * pitch;
      const int from = greatest(weights[0], start);
      const int to = least(weights[0] + weights[1], start + count);
      int sum = sums[i];
      for (int y = from; y < to; ++y) {
        sum += weights[2 + y - weights[0]] * shrunk[(y - start) * wide * 3 + i % (wide * 3)];
      }
      sums[i] = sum;
    });
  }
  block.each(wide * high * 3, [&](int i) {
    const int y = i / (wide * 3), x = i % (wide * 3);
    target[(static_cast<int64_t>(top + y) * size + left) * 3 + x] = to_byte(sums[i] >> WEIGHT_BITS);
  });
}

}  // namespace dic
