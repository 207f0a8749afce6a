// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The same as join.c, of a program that has the requests inlined.
 */
#include "megapipe-inline.h"

#include "join.c"
