// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The same as batch.c, of a program that has the requests inlined.
 */
#include "megapipe-inline.h"

#include "batch.c"
