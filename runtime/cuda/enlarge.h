// Enlarging a frame by a whole factor (runtime/faces/blend.py, `enlarged`): OpenCV's INTER_CUBIC.
#pragma once

#include "interpolation.h"

namespace dic {

struct EnlargeArguments {
  Frame source, target;  // alike in channels and depth
};

constexpr int RESIZE_BITS = 11;  // of OpenCV's whole-number weights for bytes

// Bytes: sums of whole numbers. OpenCV's vector code adds them as floats, and differs where a sum
// lies halfway between two levels.
DIC_BOTH void enlarge_bytes(const EnlargeArguments& a, const Taps& across, const Taps& down, int x,
                            int y) {
  int weights[2][4];
  for (int i = 0; i < 4; ++i) {
    weights[0][i] = nearest(across.weights[i] * (1 << RESIZE_BITS));
    weights[1][i] = nearest(down.weights[i] * (1 << RESIZE_BITS));
  }
  for (int c = 0; c < a.target.channels; ++c) {
    int sum = 1 << (2 * RESIZE_BITS - 1);
    for (int j = 0; j < 4; ++j) {
      const int row = clamp(down.first + j, 0, a.source.height - 1);
      int line = 0;
      for (int k = 0; k < 4; ++k) {
        const int column = clamp(across.first + k, 0, a.source.width - 1);
        line += weights[0][k] * value_at(a.source, column, row, c);
      }
      sum += weights[1][j] * line;
    }
    const int64_t at = static_cast<int64_t>(x) * a.target.channels + c;
    a.target.pixels[y * a.target.stride + at] = to_byte(sum >> (2 * RESIZE_BITS));
  }
}

// 16 bits: sums of floats.
DIC_BOTH void enlarge_words(const EnlargeArguments& a, const Taps& across, const Taps& down, int x,
                            int y) {
  uint16_t* target = reinterpret_cast<uint16_t*>(a.target.pixels + y * a.target.stride);
  for (int c = 0; c < a.target.channels; ++c) {
    float sum = 0;
    for (int j = 0; j < 4; ++j) {
      const int row = clamp(down.first + j, 0, a.source.height - 1);
      float line = 0;
      for (int k = 0; k < 4; ++k) {
        const int column = clamp(across.first + k, 0, a.source.width - 1);
        line += static_cast<float>(value_at(a.source, column, row, c)) * across.weights[k];
      }
      sum += line * down.weights[j];
    }
    const int64_t at = static_cast<int64_t>(x) * a.target.channels + c;
    target[at] = static_cast<uint16_t>(clamp(nearest(sum), 0, 65535));
  }
}

// Grid: (blocks of THREADS pixels in a row of the target, times its rows).
template <class Block>
DIC_BOTH void enlarge(const Block& block, const EnlargeArguments& a) {
  const int across = (a.target.width + THREADS - 1) / THREADS;
  const int y = block.x / across, left = block.x % across * THREADS;
  block.each(least(THREADS, a.target.width - left), [&](int i) {
    const Taps columns = cubic_taps(left + i, a.source.width, a.target.width);
    const Taps rows = cubic_taps(y, a.source.height, a.target.height);
    if (a.source.depth == 1) {
      enlarge_bytes(a, columns, rows, left + i, y);
    } else {
      enlarge_words(a, columns, rows, left + i, y);
    }
  });
}

}  // namespace dic
