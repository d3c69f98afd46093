// A batch norm on this batch, h = a y + b with a = gamma / sigma and b = beta - mean a, and its backward pass.

#pragma once

#include <cstdint>

namespace {

// Four rows of one array (4, C).
struct Norm {
    const float *mean, *rstd, *a, *b;
    Norm(const float* rows, int64_t C) : mean(rows), rstd(rows + C), a(rows + 2 * C), b(rows + 3 * C) {}
};

// The last two rows of another array (4, C), after the gradients of gamma and beta. The gradient of y is
// a (gradient of h) - p - q y.
struct NormBackward {
    const float *p, *q;
    NormBackward(const float* rows, int64_t C) : p(rows + 2 * C), q(rows + 3 * C) {}
};

}  // namespace
