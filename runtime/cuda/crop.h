// Cutting crops out of a frame (runtime/faces/crop.py, `cut`).
#pragma once

#include "interpolation.h"

namespace dic {

// One crop, as `kernels.crop_records` makes it.
struct CropRecord {
  double matrix[6];  // turned: from pixels of the piece to those of the part of the frame below
  int64_t piece;     // where its piece begins, in bytes
  int32_t x, y;      // upper left corner in the frame, if not turned
  int32_t size;
  int32_t turned;                    // 0 or 1
  int32_t left, top, width, height;  // of the frame's part that is turned; its edge repeats
};

struct CutArguments {
  Frame frame;
  const CropRecord* crops;
  unsigned char* pieces;
};

DIC_BOTH void turned_pixel(const Frame& frame, const CropRecord& crop, int x, int y,
                           unsigned char* rgb) {
  const Fixed at = warped(crop.matrix, x, y);
  int weights[16];
  warp_weights(at.fine_x, at.fine_y, weights);
  int sums[3] = {1 << 14, 1 << 14, 1 << 14};
  DIC_UNROLL
  for (int i = 0; i < 16; ++i) {
    const int column = crop.left + clamp(at.x - 1 + i % 4, 0, crop.width - 1);
    const int row = crop.top + clamp(at.y - 1 + i / 4, 0, crop.height - 1);
    for (int c = 0; c < 3; ++c) sums[c] += weights[i] * level_at(frame, column, row, c);
  }
  for (int c = 0; c < 3; ++c) rgb[c] = to_byte(sums[c] >> 15);
}

// Grid: (pixels of the largest piece / THREADS, crops).
template <class Block>
DIC_BOTH void cut(const Block& block, const CutArguments& a) {
  const CropRecord& crop = a.crops[block.y];
  const int64_t start = static_cast<int64_t>(block.x) * THREADS;
  const int64_t rest = static_cast<int64_t>(crop.size) * crop.size - start;
  const int count = static_cast<int>(rest < THREADS ? rest : THREADS);
  block.each(count, [&](int i) {
    const int y = static_cast<int>((start + i) / crop.size);
    const int x = static_cast<int>((start + i) % crop.size);
    unsigned char* rgb = a.pieces + crop.piece + (start + i) * 3;
    if (crop.turned) {
      turned_pixel(a.frame, crop, x, y, rgb);
      return;
    }
    const int column = clamp(crop.x + x, 0, a.frame.width - 1);
    const int row = clamp(crop.y + y, 0, a.frame.height - 1);
    for (int c = 0; c < 3; ++c) rgb[c] = to_byte(level_at(a.frame, column, row, c));
  });
}

}  // namespace dic
