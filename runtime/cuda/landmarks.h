// Landmarks of restored faces in pixels of their picture (runtime/faces/crop.py, `Crop.to_picture`).
#pragma once

#include "common.h"

namespace dic {

struct LandmarksArguments {
  const float* points;     // (faces, count, 2), (x, y) pixels of the face
  const double* matrices;  // (faces, 6): `Crop.matrix(side)` of each, row by row
  double* placed;          // (faces, count, 2), (x, y) pixels of the picture
  int32_t count;
  int32_t unused;
};

// Grid: (1, faces).
template <class Block>
DIC_BOTH void landmarks(const Block& block, const LandmarksArguments& a) {
  const int64_t start = static_cast<int64_t>(block.y) * a.count * 2;
  const double* matrix = a.matrices + static_cast<int64_t>(block.y) * 6;
  block.each(a.count, [&](int i) {
    const float* point = a.points + start + 2 * i;
    for (int axis = 0; axis < 2; ++axis) {
      const double* row = matrix + 3 * axis;
      a.placed[start + 2 * i + axis] = point[0] * row[0] + point[1] * row[1] + row[2];
    }
  });
}

}  // namespace dic
