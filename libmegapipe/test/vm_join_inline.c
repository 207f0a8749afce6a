// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The same as vm_join.c, of a program that has the requests inlined.
 */
#include "megapipe-inline.h"

#include "vm_join.c"
