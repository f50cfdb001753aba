// float32 products on matrix tiles of bfloat16 (AMX): a float is the sum of three bfloat16 of 8 bits,
// x = h + m + l, exactly, and six of the nine products of parts make x * w:
//
//   x w = h h' + h m' + m h' + h l' + m m' + l h'  + (what is left out: at most 2^-23 |x w|)
//
// Sums are float32. A matrix tile multiplies 16 rows by 16 columns over a step of 32 elements at 16
// times the rate of AVX-512's multiply-adds: six products, 2.67 times.
//
//   rows        per 16 rows and step    h | m | l, each (16 rows, 16 pairs): 64 bytes a row
//   columns     per 16 columns and step h | m | l, each (16 pairs, 16 columns)
//                                       pair p holds elements p and p + 16 of the step
//
// Tiles read subnormal parts as zero and know no infinity minus itself: lines with elements outside of
// [2^kSplitSmallest.., 2^kSplitLimit) other than 0 lie raw, as float32, where their h and m would be, and are
// multiplied by ordinary multiply-adds.
// After Henry, Tang, Heinecke: Leveraging the bfloat16 Artificial Intelligence Datatype For
// Higher-Precision Computations (2019); the instructions: Intel 64 manual, chapter 18.
#pragma once

#include <cstdint>

#include "cpu/kernels_gemm.h"

namespace fastconv::cpu {

constexpr std::int64_t kSplitStep = 32;         // elements of depth
constexpr std::int64_t kSplitLines = 16;        // rows or columns of a tile
constexpr std::int64_t kSplitPartBytes = 1024;  // of one part of a tile
constexpr std::int64_t kSplitTileBytes = 3 * kSplitPartBytes;
constexpr std::int64_t kSplitPanel = 2 * kSplitLines;  // columns

/// Exponents of the smallest elements other than 0, and the limit of all: a product's part of 2^-24 of it
/// is a normal number still.
constexpr int kSplitSmallestRow = -56, kSplitSmallestColumn = -44, kSplitLimit = 60;

constexpr std::int64_t kSplitRows = 2 * kSplitLines;  // of a product: two row tiles
constexpr std::int64_t kSplitMostSteps = 16;          // of a depth block

/// Steps that lie in one run at the rows' pointers, `offset` elements on.
struct SplitRun {
    const float* const* rows;
    std::int64_t offset, first_step, steps;
};

/// Splitting kSplitRows rows or fewer: a unit is a step of a row; runs after each other, rows in them.
struct SplitRows {
    SplitRun runs[kSplitMostSteps];
    std::int64_t run_count = 0;
    std::int64_t count = 0;
    char* tiles = nullptr;  // (2, row_tile_bytes): (steps) tiles each
    std::int64_t row_tile_bytes = 0;
    std::uint32_t raw = 0;  // a bit a row that must lie raw: found out, nothing else done

    std::int64_t units() const {
        std::int64_t steps = 0;
        for (std::int64_t i = 0; i < run_count; ++i) steps += runs[i].steps;
        return steps * count;
    }
};

/// Results of a product on their way out:
///   last: out[r][k] = relu?(sum[r][k] + fresh[r][k] + bias[k] + residual[r][k]); else sum[r][k] += fresh[r][k]
struct SplitResults {
    const float* fresh = nullptr;  // (rows, pitch), aligned to 64 bytes
    std::int64_t count = 0, pitch = 0;
    bool first = true, last = true;  // first: there is no sum so far
    GemmTile<float> tile;  // sum, out, out_offset, cols, bias, residual, relu: as there
};

/// One panel of columns by 32 rows, over some steps:
///   fresh[r][k] = sum over the steps' elements of rows[r][d] * columns[d][k]
/// and what the vector units do while the tiles multiply.
struct SplitProduct {
    const char* rows = nullptr;     // (2, row_tile_bytes), as SplitRows has them
    std::int64_t row_tile_bytes = 0;
    std::int64_t count = 0;         // rows
    std::uint32_t raw_rows = 0;     // a bit a row that lies raw
    const char* columns = nullptr;  // (steps, column tiles) tiles
    int column_tiles = 2;           // 1 or 2
    unsigned raw_columns = 0;       // a bit a column tile that lies raw
    std::int64_t steps = 0;
    float* fresh = nullptr;         // (32, 16 * column_tiles)

    const char* ahead = nullptr;    // cache lines to fetch into L2
    std::int64_t ahead_lines = 0;
    SplitRows* split = nullptr;     // units [split_begin, split_end)
    std::int64_t split_begin = 0, split_end = 0;
    const SplitResults* results = nullptr;  // of another product
};

template <class T>
struct SplitKernels {
    /// Units [begin, end).
    void (*rows)(SplitRows& rows, std::int64_t begin, std::int64_t end) = nullptr;
    /// Splits one step of `count` <= 16 rows, element d of row r at elements[d][r]; returns those, a bit each, that
    /// must lie raw.
    unsigned (*transposed)(const T* const* elements, std::int64_t count, char* tile) = nullptr;
    /// Splits one step of 16 columns, 32 lines `line_elems` apart; returns whether they must lie raw.
    bool (*columns)(const T* lines, std::int64_t line_elems, char* tile) = nullptr;
    /// null: this instruction set has no matrix tiles. `configured` is 0 at first, then what the call
    /// before left there; release() ends what it began.
    void (*multiply)(const SplitProduct& product, int& configured) = nullptr;
    void (*deliver)(const SplitResults& results) = nullptr;
    void (*release)() = nullptr;
};

}  // namespace fastconv::cpu
