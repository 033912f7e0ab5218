// Sparse algebra for autoencoders with few active latents per row: what PyTorch has no fast CPU form of.
//
// Plain C++17 behind C functions, without PyTorch's headers: it compiles in seconds and is called through ctypes. Arrays are
// dense and row-major; each row (of tokens or of latents) is one worker's alone, so results do not depend on `threads`.

#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

using i64 = std::int64_t;
using bf16 = std::uint16_t;

namespace {

template <class Body>
void parallel(i64 n, i64 grain, int threads, Body body) {
  std::atomic<i64> next{0};
  auto work = [&] {
    for (i64 begin; (begin = next.fetch_add(grain)) < n;) body(begin, std::min(n, begin + grain));
  };
  std::vector<std::thread> helpers;
  try {
    for (int i = 1; i < threads && i * grain < n; i++) helpers.emplace_back(work);
  } catch (const std::system_error&) {  // no more threads to be had: those there are do the work
  }
  work();
  for (auto& helper : helpers) helper.join();
}

[[gnu::noinline]] float dot(const float* a, const float* b, i64 d) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < d; i++) sum += a[i] * b[i];
  return sum;
}

constexpr i64 AHEAD = 4;  // rows fetched before they are needed: they lie anywhere in memory

void fetch(const float* row, i64 d) {
  for (i64 i = 0; i < d; i += 16) __builtin_prefetch(row + i);
}

float widened(float x) { return x; }

float widened(bf16 x) {
  std::uint32_t bits = std::uint32_t(x) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

// Whole numbers in the order of the floats, NaN above all of them whatever its sign.
std::int32_t key(float x) {
  std::int32_t bits;
  std::memcpy(&bits, &x, 4);
  std::int32_t ordered = bits ^ ((bits >> 31) & 0x7fffffff);
  return (bits & 0x7fffffff) > 0x7f800000 ? INT_MAX : ordered;
}

// The k-th largest key, by bisection over all whole numbers.
[[gnu::noinline]] std::int32_t kth_largest(const std::int32_t* keys, i64 n, i64 k) {
  std::int64_t low = INT_MIN, high = std::int64_t(INT_MAX) + 1;  // at least k keys reach `low`, fewer reach `high`
  while (high - low > 1) {
    const std::int32_t middle = std::int32_t((low + high) >> 1);
    std::int32_t count = 0;
#pragma omp simd reduction(+ : count)
    for (i64 i = 0; i < n; i++) count += keys[i] >= middle;
    (count >= k ? low : high) = middle;
    if (count == k) break;
  }
  std::int32_t smallest = INT_MAX;  // of those that reach `low`
#pragma omp simd reduction(min : smallest)
  for (i64 i = 0; i < n; i++) smallest = std::min(smallest, keys[i] >= std::int32_t(low) ? keys[i] : INT_MAX);
  return smallest;
}

// The number that has this key.
float number(std::int32_t ordered) {
  std::int32_t bits = ordered ^ ((ordered >> 31) & 0x7fffffff);
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}

// How far a reading of a pre-activation may be off: by so much, and by a share of its size.
struct Doubt {
  float slack, part;
};

// One row's search for its k largest pre-activations, with room that is used again for every row.
class Search {
 public:
  // A block holds the latents j, j + blocks, j + 2 blocks …; among few latents every one is a block of its own.
  Search(i64 m, i64 k)
      : m_(m), k_(k), width_(m >= 32 * k ? 16 : 1), blocks_((m + width_ - 1) / width_), keys_(width_ * blocks_, INT_MIN),
        maxima_(blocks_), found_(m), best_(m) {}

  // Finds all latents that may be among the k largest. k blocks have a reading that reaches `bound`; hence k exact values are not
  // further below it than doubt allows; hence a reading further below those than doubt allows cannot be among the k largest.
  template <class Reading>
  [[gnu::noinline]] void candidates(const Reading* __restrict__ g, const float* __restrict__ bias, Doubt doubt) {
    std::int32_t *__restrict__ keys = keys_.data(), *__restrict__ maxima = maxima_.data();
    const i64 m = m_, blocks = blocks_;
    for (i64 j = 0; j < m; j++) keys[j] = key(widened(g[j]) + bias[j]);
    std::memcpy(maxima, keys, blocks * sizeof(*keys));
    for (i64 w = 1; w < width_; w++)
      for (i64 i = 0; i < blocks; i++) maxima[i] = std::max(maxima[i], keys[w * blocks + i]);
    std::int32_t bound = kth_largest(maxima, blocks, k_);
    if (std::isfinite(number(bound)) && doubt.slack > 0) {
      const float least = number(bound) - doubt.part * std::fabs(number(bound)) - 2 * doubt.slack;
      bound = key(least - 1.02f * doubt.part * std::fabs(least));
    }
    collect(bound);
  }

  i64 count() const { return count_; }
  i64 found(i64 i) const { return found_[i]; }

  // Of the candidates, those with the k largest exact values; `exact` takes a candidate's number.
  template <class Exact>
  void settle(Exact exact, float* values, i64* latents) {
    for (i64 i = 0; i < count_; i++) best_[i] = {exact(i), found_[i]};
    std::nth_element(best_.begin(), best_.begin() + (k_ - 1), best_.begin() + count_, [](const Best& a, const Best& b) {
      return std::pair(key(a.value), b.latent) > std::pair(key(b.value), a.latent);
    });
    for (i64 i = 0; i < k_; i++) {
      values[i] = best_[i].value;
      latents[i] = best_[i].latent;
    }
  }

 private:
  struct Best {
    float value;
    i64 latent;
  };

  [[gnu::noinline]] void collect(std::int32_t threshold) {
    const std::int32_t *keys = keys_.data(), *maxima = maxima_.data();
    const i64 m = m_, blocks = blocks_;
    i64 count = 0, *found = found_.data();
    for (i64 i = 0; i < blocks; i++)
      if (maxima[i] >= threshold)
        for (i64 j = i; j < m; j += blocks)
          if (keys[j] >= threshold) found[count++] = j;
    count_ = count;
  }

  i64 m_, k_, width_, blocks_, count_ = 0;
  std::vector<std::int32_t> keys_, maxima_;
  std::vector<i64> found_;
  std::vector<Best> best_;
};

// Not clearly at or below the threshold: above it, within the doubt, or no number.
template <class Reading>
bool may_exceed(Reading g, float bias, float threshold, Doubt doubt) {
  const float wide = widened(g);
  return !(wide + bias + doubt.part * std::fabs(wide) + doubt.slack <= threshold);
}

template <class Reading>
[[gnu::noinline]] i64 count_above(const Reading* g, const float* bias, const float* threshold, Doubt doubt, i64 m) {
  std::int32_t count = 0;
#pragma omp simd reduction(+ : count)
  for (i64 j = 0; j < m; j++) count += may_exceed(g[j], bias[j], threshold[j], doubt);
  return count;
}

template <class Reading>
[[gnu::noinline]] void list_above(const Reading* g, const float* bias, const float* threshold, Doubt doubt, i64 m, i64* latents) {
  constexpr i64 WIDTH = 64;
  for (i64 start = 0; start < m; start += WIDTH) {
    const i64 stop = std::min(m, start + WIDTH);
    if (count_above(g + start, bias + start, threshold + start, doubt, stop - start) == 0) continue;
    for (i64 j = start; j < stop; j++)
      if (may_exceed(g[j], bias[j], threshold[j], doubt)) *latents++ = j;
  }
}

// Adds Σ values[order[e]] (dense[columns[e]] - centre); without an order values are taken as they come, without a centre it is 0.
[[gnu::noinline]] void add_weighted_sum(const float* values, const i64* order, const i64* columns, i64 count, const float* dense,
                                        const float* centre, float* __restrict__ out, i64 d) {
  auto value = [&](i64 e) { return values[order == nullptr ? e : order[e]]; };
  if (centre != nullptr) {
    float total = 0;
    for (i64 e = 0; e < count; e++) total += value(e);
    for (i64 i = 0; i < d; i++) out[i] -= total * centre[i];
  }
  i64 e = 0;
  for (; e + 4 <= count; e += 4) {  // four at a time: `out` is read and written a quarter as often
    for (i64 next = e + 4; next < std::min(count, e + 8); next++) fetch(dense + columns[next] * d, d);
    const float a = value(e), b = value(e + 1), c = value(e + 2), f = value(e + 3);
    const float *u = dense + columns[e] * d, *v = dense + columns[e + 1] * d, *w = dense + columns[e + 2] * d,
                *x = dense + columns[e + 3] * d;
    for (i64 i = 0; i < d; i++) out[i] += (a * u[i] + b * v[i]) + (c * w[i] + f * x[i]);
  }
  for (; e < count; e++) {
    const float a = value(e), *u = dense + columns[e] * d;
    for (i64 i = 0; i < d; i++) out[i] += a * u[i];
  }
}

[[gnu::noinline]] double squared(const float* g, const float* w, float along, i64 d) {
  float sum = 0;
  if (w == nullptr) return dot(g, g, d);
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < d; i++) sum += (g[i] - along * w[i]) * (g[i] - along * w[i]);
  return sum;
}

[[gnu::noinline]] void narrowed(const float* __restrict__ row, bf16* __restrict__ narrow, float* length, float* lost, i64 d) {
  float all = 0, off = 0;
#pragma omp simd reduction(+ : all, off)
  for (i64 i = 0; i < d; i++) {
    std::uint32_t bits;
    std::memcpy(&bits, row + i, 4);
    bits += 0x7fff + ((bits >> 16) & 1);  // to the nearest, ties to even
    bits = row[i] == row[i] ? bits : 0x7fffffff;
    narrow[i] = bf16(bits >> 16);
    const float difference = row[i] - widened(bf16(bits >> 16));
    all += row[i] * row[i];
    off += difference * difference;
  }
  *length = std::sqrt(all);
  *lost = std::sqrt(off);
}

// Moves one row and returns its length.
[[gnu::noinline]] float moved(float* __restrict__ w, const float* __restrict__ g, float* __restrict__ first,
                              float* __restrict__ second, float along, float clip, float rate, float beta1, float beta2,
                              float root2, float epsilon, i64 d) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (i64 i = 0; i < d; i++) {
    const float slope = clip * (g[i] - along * w[i]);
    first[i] = beta1 * first[i] + (1 - beta1) * slope;
    second[i] = beta2 * second[i] + (1 - beta2) * slope * slope;
    w[i] -= rate * first[i] / (std::sqrt(second[i]) / root2 + epsilon);
    sum += w[i] * w[i];
  }
  return std::sqrt(sum);
}

}  // namespace

extern "C" {

// The k largest pre-activations of each row, from their exact values pre [n m] without the bias.
void topk(const float* pre, const float* bias, float* values, i64* latents, i64 n, i64 m, i64 k, int threads) {
  parallel(n, 16, threads, [&](i64 begin, i64 end) {
    Search search(m, k);
    for (i64 r = begin; r < end; r++) {
      const float* g = pre + r * m;
      search.candidates(g, bias, {0, 0});
      search.settle([&](i64 i) { return g[search.found(i)] + bias[search.found(i)]; }, values + r * k, latents + r * k);
    }
  });
}

// The same from bfloat16 readings of them: whatever may be among the k largest is computed again from rows and weight.
void topk_bf16(const bf16* pre, const float* bias, const float* rows, const float* weight, const float* slack, float part,
               float* values, i64* latents, i64 n, i64 m, i64 d, i64 k, int threads) {
  parallel(n, 16, threads, [&](i64 begin, i64 end) {
    Search search(m, k);
    for (i64 r = begin; r < end; r++) {
      search.candidates(pre + r * m, bias, {slack[r], part});
      auto exact = [&](i64 i) {
        if (i + AHEAD < search.count()) fetch(weight + search.found(i + AHEAD) * d, d);
        return dot(rows + r * d, weight + search.found(i) * d, d) + bias[search.found(i)];
      };
      search.settle(exact, values + r * k, latents + r * k);
    }
  });
}

// bfloat16 roundings of each row, its length, and the length of what rounding took from it.
void rounded(const float* matrix, bf16* narrow, float* length, float* lost, i64 n, i64 d, int threads) {
  parallel(n, 64, threads, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; r++) narrowed(matrix + r * d, narrow + r * d, length + r, lost + r, d);
  });
}

// How many pre-activations of each row exceed the threshold, or may, or are no numbers: counts [n]; then which: latents, from
// pointers [n+1] on. `slack` and `part` as above; both 0 where pre is exact.
#define ABOVE(NAME, READING)                                                                                                \
  void NAME(const READING* pre, const float* bias, const float* threshold, const float* slack, float part, i64* counts,     \
            const i64* pointers, i64* latents, i64 n, i64 m, int threads) {                                                 \
    parallel(n, 16, threads, [&](i64 begin, i64 end) {                                                                      \
      for (i64 r = begin; r < end; r++)                                                                                     \
        if (latents == nullptr)                                                                                             \
          counts[r] = count_above(pre + r * m, bias, threshold, {slack[r], part}, m);                                       \
        else                                                                                                                \
          list_above(pre + r * m, bias, threshold, {slack[r], part}, m, latents + pointers[r]);                             \
    });                                                                                                                     \
  }
ABOVE(above, float)
ABOVE(above_bf16, bf16)
#undef ABOVE

// rows[r] · weight[latents[e]] for the entries e of each row.
void dots(const float* rows, const float* weight, const i64* pointers, const i64* latents, float* out, i64 n, i64 d,
          int threads) {
  const i64 last = pointers[n];
  parallel(n, 16, threads, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; r++)
      for (i64 e = pointers[r]; e < pointers[r + 1]; e++) {
        if (e + AHEAD < last) fetch(weight + latents[e + AHEAD] * d, d);
        out[e] = dot(rows + r * d, weight + latents[e] * d, d);
      }
  });
}

// out[r] = base[r] + Σ values[order[e]] (dense[columns[e]] - centre) over the entries e of row r; without a base it is 0.
void combine(const float* values, const i64* order, const i64* pointers, const i64* columns, const float* dense,
             const float* centre, const float* base, float* out, i64 n, i64 d, int threads) {
  parallel(n, 16, threads, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; r++) {
      const i64 first = pointers[r], count = pointers[r + 1] - first;
      if (base == nullptr)
        std::fill_n(out + r * d, d, 0.0f);
      else
        std::copy_n(base + r * d, d, out + r * d);
      add_weighted_sum(order == nullptr ? values + first : values, order == nullptr ? nullptr : order + first, columns + first,
                       count, dense, centre, out + r * d, d);
    }
  });
}

// The same entries latent by latent, in the order of their rows: pointers [m+1], all 0 at first, rows, and where each was before.
void transpose(const i64* pointers, const i64* latents, i64* by_latent, i64* rows, i64* order, i64 n, i64 m, int) {
  for (i64 e = 0; e < pointers[n]; e++) by_latent[latents[e] + 1]++;
  for (i64 j = 0; j < m; j++) by_latent[j + 1] += by_latent[j];
  std::vector<i64> next(by_latent, by_latent + m);
  for (i64 r = 0; r < n; r++)
    for (i64 e = pointers[r]; e < pointers[r + 1]; e++) {
      const i64 place = next[latents[e]]++;
      rows[place] = r;
      order[place] = e;
    }
}

// Σ gradient² of each row. Where `weight` has unit rows: of what is left of the gradient without its part along the weight,
// and that part, `along`.
void squares(const float* gradient, const float* weight, float* along, double* out, i64 n, i64 d, int threads) {
  parallel(n, 64, threads, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; r++) {
      const float* g = gradient + r * d;
      if (weight != nullptr) along[r] = dot(g, weight + r * d, d);
      out[r] = squared(g, weight == nullptr ? nullptr : weight + r * d, weight == nullptr ? 0 : along[r], d);
    }
  });
}

// One step of Adam with gradients times `clip`; with `along`, without their part along the weight, and to unit rows afterwards.
// rate and root2 hold the bias corrections: w -= rate · m / (√v / root2 + epsilon).
void adam(float* weight, const float* gradient, float* first, float* second, const float* along, float clip, float rate,
          float beta1, float beta2, float root2, float epsilon, i64 n, i64 d, int threads) {
  parallel(n, 64, threads, [&](i64 begin, i64 end) {
    for (i64 r = begin; r < end; r++) {
      float* w = weight + r * d;
      const float length = moved(w, gradient + r * d, first + r * d, second + r * d, along == nullptr ? 0 : along[r], clip, rate,
                                 beta1, beta2, root2, epsilon, d);
      if (along == nullptr) continue;
      const float inverse = 1 / std::max(length, 1e-12f);
      for (i64 i = 0; i < d; i++) w[i] *= inverse;
    }
  });
}

}  // extern "C"
