// Enlarging a frame by a whole factor (runtime/faces/blend.py, `enlarged`): OpenCV's INTER_CUBIC.
#pragma once

#include "interpolation.h"

namespace dic {

struct EnlargeArguments {
  Frame source, target;  // alike in channels and depth
};

constexpr int RESIZE_BITS = 11;  // of OpenCV's whole-number weights for bytes
constexpr int MOST_CHANNELS = 4;

// Sums over the 4×4 source pixels of one pixel, for each channel: across each row, then down.
template <class Number>
DIC_BOTH void weighted(const Frame& source, int left, int top, const Number* across,
                       const Number* down, Number* sums) {
  DIC_UNROLL
  for (int j = 0; j < 4; ++j) {
    const int row = clamp(top + j, 0, source.height - 1);
    Number line[MOST_CHANNELS] = {0, 0, 0, 0};
    DIC_UNROLL
    for (int k = 0; k < 4; ++k) {
      const int column = clamp(left + k, 0, source.width - 1);
      DIC_UNROLL
      for (int c = 0; c < MOST_CHANNELS; ++c) {
        if (c < source.channels) {
          line[c] += across[k] * static_cast<Number>(value_at(source, column, row, c));
        }
      }
    }
    DIC_UNROLL
    for (int c = 0; c < MOST_CHANNELS; ++c) sums[c] += line[c] * down[j];
  }
}

// Bytes: sums of whole numbers. OpenCV's vector code adds them as floats, and differs where a sum
// lies halfway between two levels.
DIC_BOTH void enlarge_bytes(const Frame& source, const Taps<4>& columns, const Taps<4>& rows,
                            unsigned char* target) {
  constexpr int HALF = 1 << (2 * RESIZE_BITS - 1);
  int across[4], down[4], sums[MOST_CHANNELS] = {HALF, HALF, HALF, HALF};
  DIC_UNROLL
  for (int i = 0; i < 4; ++i) {
    across[i] = nearest(columns.weights[i] * (1 << RESIZE_BITS));
    down[i] = nearest(rows.weights[i] * (1 << RESIZE_BITS));
  }
  weighted(source, columns.first, rows.first, across, down, sums);
  DIC_UNROLL
  for (int c = 0; c < MOST_CHANNELS; ++c) {
    if (c < source.channels) target[c] = to_byte(sums[c] >> (2 * RESIZE_BITS));
  }
}

// 16 bits: sums of floats.
DIC_BOTH void enlarge_words(const Frame& source, const Taps<4>& columns, const Taps<4>& rows,
                            uint16_t* target) {
  float sums[MOST_CHANNELS] = {0, 0, 0, 0};
  weighted(source, columns.first, rows.first, columns.weights, rows.weights, sums);
  DIC_UNROLL
  for (int c = 0; c < MOST_CHANNELS; ++c) {
    if (c < source.channels) target[c] = static_cast<uint16_t>(clamp(nearest(sums[c]), 0, 65535));
  }
}

// Grid: (blocks of THREADS pixels in a row of the target, times its rows).
template <class Block>
DIC_BOTH void enlarge(const Block& block, const EnlargeArguments& a) {
  const int across = (a.target.width + THREADS - 1) / THREADS;
  const int y = block.x / across, left = block.x % across * THREADS;
  block.each(least(THREADS, a.target.width - left), [&](int i) {
    const Taps<4> columns = cubic_taps(left + i, a.source.width, a.target.width);
    const Taps<4> rows = cubic_taps(y, a.source.height, a.target.height);
    unsigned char* row = a.target.pixels + y * a.target.stride;
    const int64_t at = static_cast<int64_t>(left + i) * a.target.channels;
    if (a.source.depth == 1) {
      enlarge_bytes(a.source, columns, rows, row + at);
    } else {
      enlarge_words(a.source, columns, rows, reinterpret_cast<uint16_t*>(row) + at);
    }
  });
}

}  // namespace dic
