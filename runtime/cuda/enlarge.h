// Enlarging a frame by a whole factor (runtime/faces/blend.py, `enlarged`): OpenCV's INTER_CUBIC.
#pragma once

#include "interpolation.h"

namespace dic {

struct EnlargeArguments {
  Frame source, target;  // alike in channels and depth
};

constexpr int MOST_CHANNELS = 4;

// Pixel of the target: weighted sums over 4×4 source pixels, across each row, then down. Weights are
// floats at both depths, as in Intel's IPP, which OpenCV's packages for x86 resize bytes with; its
// own code has weights of 1/2048, and differs by a level in one pixel of twenty.
DIC_BOTH void enlarged_pixel(const Frame& source, const Taps<4>& across, const Taps<4>& down,
                             int* values) {
  float sums[MOST_CHANNELS] = {0, 0, 0, 0};
  DIC_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int row = clamp(down.first + j, 0, source.height - 1);
    float line[MOST_CHANNELS] = {0, 0, 0, 0};
    DIC_UNROLL
    for (int k = 0; k < 4; ++k) {
      const int column = clamp(across.first + k, 0, source.width - 1);
      DIC_UNROLL
      for (int c = 0; c < MOST_CHANNELS; ++c) {
        if (c < source.channels) {
          line[c] += across.weights[k] * static_cast<float>(value_at(source, column, row, c));
        }
      }
    }
    DIC_UNROLL
    for (int c = 0; c < MOST_CHANNELS; ++c) sums[c] += line[c] * down.weights[j];
  }
  DIC_UNROLL
  for (int c = 0; c < MOST_CHANNELS; ++c) values[c] = nearest(sums[c]);
}

// Grid: (blocks of THREADS pixels in a row of the target, times its rows).
template <class Block>
DIC_BOTH void enlarge(const Block& block, const EnlargeArguments& a) {
  const int across = (a.target.width + THREADS - 1) / THREADS;
  const int y = block.x / across, left = block.x % across * THREADS;
  block.each(least(THREADS, a.target.width - left), [&](int i) {
    const Taps<4> columns = cubic_taps(left + i, a.source.width, a.target.width);
    const Taps<4> rows = cubic_taps(y, a.source.height, a.target.height);
    int values[MOST_CHANNELS];
    enlarged_pixel(a.source, columns, rows, values);
    unsigned char* row = a.target.pixels + y * a.target.stride;
    const int64_t at = static_cast<int64_t>(left + i) * a.target.channels;
    DIC_UNROLL
    for (int c = 0; c < MOST_CHANNELS; ++c) {
      if (c >= a.target.channels) continue;
      if (a.target.depth == 1) {
        row[at + c] = to_byte(values[c]);
      } else {
        reinterpret_cast<uint16_t*>(row)[at + c] = static_cast<uint16_t>(clamp(values[c], 0, 65535));
      }
    }
  });
}

}  // namespace dic
