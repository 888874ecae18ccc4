// OpenCV's interpolation, so that what the CPU's path does with it comes out alike here.
//
// Source: modules/imgproc/src/resize.cpp and imgwarp.cpp, OpenCV 4.x.
#pragma once

#include "common.h"

namespace dic {

// The source pixels and weights of one pixel along one axis; pixels beyond the edge repeat it. The
// number of taps is known when compiled, so that the weights lie in registers.
template <int COUNT>
struct Taps {
  static constexpr int count = COUNT;
  int first;
  float weights[COUNT];

  DIC_BOTH float weight(int i) const { return weights[i]; }
};

// Weights of the four pixels around a position (Keys, a = -0.75), 0 ≤ x < 1 after the second.
DIC_BOTH void cubic_weights(float x, float* weights) {
  constexpr float A = -0.75f;
  weights[0] = ((A * (x + 1) - 5 * A) * (x + 1) + 8 * A) * (x + 1) - 4 * A;
  weights[1] = ((A + 2) * x - (A + 3)) * x * x + 1;
  weights[2] = ((A + 2) * (1 - x) - (A + 3)) * (1 - x) * (1 - x) + 1;
  weights[3] = 1.f - weights[0] - weights[1] - weights[2];
}

// Weights of the eight pixels around a position, 0 ≤ x < 1 after the fourth.
DIC_BOTH void lanczos_weights(float x, float* weights) {
  constexpr double EIGHTH = 0.70710678118654752440, QUARTER_PI = 0.78539816339744830962;
  const double turn = -(x + 3) * QUARTER_PI;
  const double s = sin(turn), c = cos(turn);
  float sum = 0;
  for (int i = 0; i < 8; ++i) {
    const float distance = x + static_cast<float>(3 - i);
    if (fabsf(distance) < 1e-6f) {
      weights[i] = 1e30f;  // all others vanish beside it
    } else {
      // sin(turn + i·π/4) up to its sign, by the addition theorem.
      const double y = -distance * QUARTER_PI;
      const double along = i % 4 == 0 ? 1 : i % 4 == 2 ? 0 : i % 4 == 1 ? -EIGHTH : EIGHTH;
      const double across = i % 4 == 0 ? 0 : i % 4 == 2 ? 1 : -EIGHTH;
      const double sign = i < 4 ? 1 : -1;
      weights[i] = static_cast<float>(sign * (along * s + across * c) / (y * y));
    }
    sum += weights[i];
  }
  for (int i = 0; i < 8; ++i) weights[i] *= 1.f / sum;
}

// Where pixel `index` of `size` lies among `old`, as whole pixel and remainder in 0..1.
DIC_BOTH float position(int index, int old, int size, int* whole) {
  const double scale = 1.0 / (static_cast<double>(size) / old);
  const float at = static_cast<float>((index + 0.5) * scale - 0.5);
  const float down = floorf(at);
  *whole = static_cast<int>(down);
  return at - down;
}

DIC_BOTH Taps<4> cubic_taps(int index, int old, int size) {
  Taps<4> taps;
  const float x = position(index, old, size, &taps.first);
  taps.first -= 1;
  cubic_weights(x, taps.weights);
  return taps;
}

// INTER_LINEAR, and no weight for what lies beyond the edge.
DIC_BOTH Taps<2> linear_taps(int index, int old, int size) {
  Taps<2> taps;
  float x = position(index, old, size, &taps.first);
  if (taps.first < 0) {
    taps.first = 0;
    x = 0;
  } else if (taps.first >= old - 1) {
    taps.first = old - 1;
    x = 0;
  }
  taps.weights[0] = 1.f - x;
  taps.weights[1] = x;
  return taps;
}

// INTER_AREA of `old` pixels shrunk to `size`: the pixels that pixel `index` covers, by their share.
struct Area {
  int first, count;
  float head, body, tail;

  DIC_BOTH Area(int index, int old, int size) {
    const double scale = 1.0 / (static_cast<double>(size) / old);
    const double start = index * scale, end = start + scale;
    const double width = scale < old - start ? scale : old - start;
    const int last = least(static_cast<int>(floor(end)), old - 1);
    const int begin = least(static_cast<int>(ceil(start)), last);
    const bool before = begin - start > 1e-3, after = end - last > 1e-3;
    const double share = end - last < 1.0 ? end - last : 1.0;
    first = begin - (before ? 1 : 0);
    count = last - first + (after ? 1 : 0);
    body = static_cast<float>(1.0 / width);
    head = before ? static_cast<float>((begin - start) / width) : body;
    tail = after ? static_cast<float>((share < width ? share : width) / width) : body;
    if (!before && count == 1 && after) head = tail;
  }

  DIC_BOTH float weight(int i) const { return i == 0 ? head : i == count - 1 ? tail : body; }
};

// warpAffine: positions are rounded to 1/32 of a pixel, so an exact one is up to 1/64 off.
constexpr int FINE_BITS = 5, COARSE_BITS = 10;

struct Fixed {
  int x, y;          // the whole pixel
  int fine_x, fine_y;  // in 1/32 of a pixel
};

// `matrix`: from destination to source.
DIC_BOTH Fixed warped(const double* matrix, int x, int y) {
  constexpr double SCALE = 1 << COARSE_BITS;
  constexpr int HALF = 1 << (COARSE_BITS - FINE_BITS - 1), SHIFT = COARSE_BITS - FINE_BITS;
  const int to_x = (nearest((matrix[1] * y + matrix[2]) * SCALE) + HALF +
                    nearest(matrix[0] * x * SCALE)) >> SHIFT;
  const int to_y = (nearest((matrix[4] * y + matrix[5]) * SCALE) + HALF +
                    nearest(matrix[3] * x * SCALE)) >> SHIFT;
  constexpr int MASK = (1 << FINE_BITS) - 1;
  return {to_x >> FINE_BITS, to_y >> FINE_BITS, to_x & MASK, to_y & MASK};
}

// warpAffine of bytes, INTER_CUBIC: 16 weights in 1/32768, made to sum to 1 as OpenCV does.
DIC_BOTH void warp_weights(int fine_x, int fine_y, int* weights) {
  constexpr int ONE = 1 << 15;
  float across[4], down[4];
  cubic_weights(static_cast<float>(fine_x) / (1 << FINE_BITS), across);
  cubic_weights(static_cast<float>(fine_y) / (1 << FINE_BITS), down);
  int sum = 0;
  DIC_UNROLL
  for (int i = 0; i < 16; ++i) {
    weights[i] = least(nearest(down[i / 4] * across[i % 4] * ONE), ONE - 1);
    sum += weights[i];
  }
  // What is missing goes to the largest, what is too much to the smallest, of the last four. Their
  // places are compared one by one: a dynamic index would move all weights out of registers.
  int large = 10, small = 10, largest = weights[10], smallest = weights[10];
  DIC_UNROLL
  for (int place = 11; place < 16; ++place) {
    if (place % 4 < 2) continue;
    if (weights[place] < smallest) {
      small = place;
      smallest = weights[place];
    } else if (weights[place] > largest) {
      large = place;
      largest = weights[place];
    }
  }
  DIC_UNROLL
  for (int place = 10; place < 16; ++place) {
    if (place == (sum < ONE ? large : small)) weights[place] += ONE - sum;
  }
}

}  // namespace dic
