/* SPDX-License-Identifier: MIT */
/*
 * A log-linear histogram of nanoseconds: every octave is cut into the same
 * number of equal bins, so the relative error is the same everywhere (a bin is
 * at most 1/64 of its value wide). Each thread owns its histograms; they are
 * added up when the threads have ended. A value above the last bin is counted
 * as out of range and still enters the mean and the maximum: nothing is lost
 * silently.
 */
#ifndef LOAD_HISTOGRAM_H
#define LOAD_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_SUB_BITS	6
#define HISTOGRAM_PER_OCTAVE	(1 << HISTOGRAM_SUB_BITS)
#define HISTOGRAM_TOP_BITS	37		/* 2^37 ns = 137 s */
#define HISTOGRAM_BINS \
	((HISTOGRAM_TOP_BITS - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_PER_OCTAVE)

struct histogram {
	uint64_t count;			/* all values, those out of range too */
	uint64_t out_of_range;
	uint64_t sum_ns;
	uint64_t max_ns;
	uint64_t bin[HISTOGRAM_BINS];
};

void histogram_record(struct histogram *h, int64_t value_ns);
void histogram_add(struct histogram *to, const struct histogram *from);

/* The first nanosecond that belongs to a bin. */
uint64_t histogram_lower_ns(unsigned int bin);

/*
 * The value under which the given share of all values lies, as the middle of
 * its bin; the exact maximum where it falls out of range; 0 if empty.
 */
double histogram_percentile_ns(const struct histogram *h, double share);
double histogram_mean_ns(const struct histogram *h);

#endif
