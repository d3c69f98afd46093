// Vectors of floats as long as the registers, and maps of float32 or bfloat16 read and written through them. All
// arithmetic is float32.

#pragma once

#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {

// Floats of a vector, a divisor of 16. Vectors longer than the registers would work too, but GCC keeps them in memory.
#if defined(__AVX512F__)
constexpr int V = 16;
#elif defined(__AVX__)
constexpr int V = 8;
#else
constexpr int V = 4;
#endif
typedef float Vec __attribute__((vector_size(4 * V)));
typedef int32_t Ints __attribute__((vector_size(4 * V)));
typedef uint32_t Words __attribute__((vector_size(4 * V)));
typedef uint16_t Halves __attribute__((vector_size(2 * V)));

struct BFloat16 {
    uint16_t bits;
};

inline Vec load(const float* p) {
    Vec v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
inline Vec load(const BFloat16* p) {
    Halves h;
    std::memcpy(&h, p, sizeof h);
    return (Vec)(__builtin_convertvector(h, Words) << 16);
}
inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }
inline void store(BFloat16* p, Vec v) {
    // To nearest, ties to even. The NaN that arithmetic makes (0x7fc00000) stays one.
    const Words u = (Words)v;
    const Halves h = __builtin_convertvector((u + 0x7fffu + ((u >> 16) & 1u)) >> 16, Halves);
    std::memcpy(p, &h, sizeof h);
}
inline Vec all(float x) { return Vec{} + x; }

inline float to_float(float x) { return x; }
inline float to_float(BFloat16 x) {
    const uint32_t u = uint32_t(x.bits) << 16;
    float f;
    std::memcpy(&f, &u, 4);
    return f;
}
inline void from_float(float x, float* p) { *p = x; }
inline void from_float(float x, BFloat16* p) {
    uint32_t u;
    std::memcpy(&u, &x, 4);
    p->bits = uint16_t((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// 1 / x for x in [1, 2^126], to 1e-7.
inline Vec reciprocal(Vec x) {
#ifdef __AVX512F__
    const Vec r = (Vec)_mm512_rcp14_ps((__m512)x);  // a division takes as long as ten multiplications
    return r * (2.0f - x * r);
#else
    return 1.0f / x;
#endif
}

// 2^t for t in [-126, 0], to 2e-7.
inline Vec power_of_two(Vec t) {
    const Ints whole = __builtin_convertvector(t - 0.5f, Ints);  // t <= 0, so cutting towards 0 rounds to the nearest
    const Vec f = t - __builtin_convertvector(whole, Vec);       // in [-1/2, 1/2]
    Vec p = all(1.3333558e-3f);
    p = p * f + 9.6181291e-3f;
    p = p * f + 5.5504109e-2f;
    p = p * f + 2.4022651e-1f;
    p = p * f + 6.9314718e-1f;
    p = p * f + 1.0f;
    return (Vec)((Ints)p + (whole << 23));
}

// exp(-x^2 / 2), to 2e-7; NaN stays NaN.
inline Vec bell(Vec x) {
    const Vec t = x * x * -0.72134752f;  // -1/2 log2(e)
    return power_of_two(t < -126.0f ? all(-126.0f) : t);
}

// The normal distribution function Phi(x), given bell(x): Abramowitz & Stegun 7.1.26, to 1.5e-7.
inline Vec distribution(Vec x, Vec bell_x) {
    const Vec magnitude = (Vec)((Ints)x & 0x7fffffff);
    const Vec t = reciprocal(1.0f + 0.23164189f * magnitude);
    Vec p = all(0.5307027f);
    p = p * t - 0.7265760f;
    p = p * t + 0.7107069f;
    p = p * t - 0.14224837f;
    p = p * t + 0.12741480f;
    const Vec tail = p * t * bell_x;
    return x < 0.0f ? tail : 1.0f - tail;
}

inline Vec gelu(Vec x) { return x * distribution(x, bell(x)); }

// GELU and its derivative Phi(x) + x phi(x).
inline void gelu_both(Vec x, Vec& value, Vec& slope) {
    const Vec e = bell(x), d = distribution(x, e);
    value = x * d;
    slope = d + x * e * 0.39894228f;
}

// Calls `task(image, first channel, vectors)` for every image and block of channels, each of 2 vectors or 1.
template <class Task>
void for_blocks(int64_t images, int64_t channels, Task task) {
    const int64_t blocks = (channels + 2 * V - 1) / (2 * V);
#pragma omp parallel for collapse(2) schedule(static)
    for (int64_t b = 0; b < images; ++b)
        for (int64_t k = 0; k < blocks; ++k) task(b, k * 2 * V, channels - k * 2 * V >= 2 * V ? 2 : 1);
}

}  // namespace
