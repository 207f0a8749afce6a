// SPDX-License-Identifier: MIT
/*
 * Bins: values below 64 ns have a bin each; above, the octave is the position
 * of the highest bit and the next 6 bits choose the bin inside it.
 */
#include "histogram.h"

#include <math.h>

static unsigned int bin_of(uint64_t value_ns)
{
	unsigned int octave;

	if (value_ns < HISTOGRAM_PER_OCTAVE)
		return value_ns;
	octave = 63 - __builtin_clzll(value_ns) - HISTOGRAM_SUB_BITS;
	return (octave + 1) * HISTOGRAM_PER_OCTAVE +
	       ((value_ns >> octave) & (HISTOGRAM_PER_OCTAVE - 1));
}

uint64_t histogram_lower_ns(unsigned int bin)
{
	unsigned int octave = bin / HISTOGRAM_PER_OCTAVE;
	uint64_t within = bin % HISTOGRAM_PER_OCTAVE;

	if (octave == 0)
		return within;
	return (HISTOGRAM_PER_OCTAVE + within) << (octave - 1);
}

void histogram_record(struct histogram *h, int64_t value_ns)
{
	uint64_t value = value_ns > 0 ? value_ns : 0;
	unsigned int bin = bin_of(value);

	h->count++;
	h->sum_ns += value;
	if (value > h->max_ns)
		h->max_ns = value;
	if (bin < HISTOGRAM_BINS)
		h->bin[bin]++;
	else
		h->out_of_range++;
}

void histogram_add(struct histogram *to, const struct histogram *from)
{
	to->count += from->count;
	to->out_of_range += from->out_of_range;
	to->sum_ns += from->sum_ns;
	if (from->max_ns > to->max_ns)
		to->max_ns = from->max_ns;
	for (unsigned int i = 0; i < HISTOGRAM_BINS; i++)
		to->bin[i] += from->bin[i];
}

double histogram_percentile_ns(const struct histogram *h, double share)
{
	uint64_t rank = ceil(share * h->count);
	uint64_t seen = 0;

	if (h->count == 0)
		return 0;
	for (unsigned int i = 0; i < HISTOGRAM_BINS; i++) {
		seen += h->bin[i];
		if (seen >= rank && h->bin[i] > 0) {
			double low = histogram_lower_ns(i);
			double high = histogram_lower_ns(i + 1) - 1;

			return fmin((low + high) / 2, h->max_ns);
		}
	}
	return h->max_ns;
}

double histogram_mean_ns(const struct histogram *h)
{
	return h->count ? (double)h->sum_ns / h->count : 0;
}
