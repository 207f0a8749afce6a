// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Why there is no channel: the first thing that most programs which try MegaPipe
 * have to say.
 */
#include <stdio.h>
#include <string.h>

#include "internal.h"

#define MP_SYSFS	"/sys/class/misc/megapipe"
#define INSTRUCTIONS	"how to build and boot one: megapipe(7), KERNEL"

static void explain_missing(const char *kernel, char *text, size_t size)
{
	if (mp_sys_exists(MP_SYSFS))
		snprintf(text, size,
			 "this kernel (%s) has MegaPipe, but there is no %s "
			 "here: pass it into the container, or make the node "
			 "with the numbers in %s/dev", kernel, MP_DEVICE,
			 MP_SYSFS);
	else
		snprintf(text, size,
			 "this kernel (%s) has no MegaPipe: it takes Linux "
			 "6.12 with the MegaPipe patches and CONFIG_MEGAPIPE=y; "
			 INSTRUCTIONS, kernel);
}

static void explain_abi(const char *kernel, char *text, size_t size)
{
	struct megapipe_info info = { 0 };
	int fd = mp_open_device(&info);
	const char *cure;

	if (fd >= 0)
		mp_sys_close(fd);
	if (!info.abi_version) {
		snprintf(text, size,
			 "%s of this kernel (%s) is not MegaPipe's: another "
			 "driver has the name", MP_DEVICE, kernel);
		return;
	}
	cure = info.abi_version > MEGAPIPE_ABI_VERSION ?
		"install a newer libmegapipe" :
		"it takes a newer kernel; " INSTRUCTIONS;
	snprintf(text, size,
		 "the MegaPipe of this kernel (%s) has ABI version %u with %u "
		 "commands, but libmegapipe %s needs version %u with %u: %s",
		 kernel, info.abi_version, info.nr_ops, MP_VERSION,
		 MEGAPIPE_ABI_VERSION, MEGAPIPE_OP_LAST, cure);
}

static void explain_other(int error, char *text, size_t size)
{
	char reason[128];

	if (error >= 0 || error < -4095 ||
	    strerror_r(-error, reason, sizeof(reason)))
		snprintf(reason, sizeof(reason), "error %d", error);
	snprintf(text, size, "cannot open a channel of MegaPipe: %s", reason);
}

const char *mp_explain(int error, char *text, size_t size)
{
	char kernel[140];

	if (!text || !size)
		return "";
	mp_sys_release(kernel, sizeof(kernel));
	switch (error) {
	case -ENOENT:
		explain_missing(kernel, text, size);
		break;
	case -EACCES:
		snprintf(text, size,
			 "no permission to open %s of this kernel (%s): its "
			 "owner can give it, for good with the udev rule "
			 "KERNEL==\"megapipe\", MODE=\"0666\"", MP_DEVICE,
			 kernel);
		break;
	case -EPROTO:
		explain_abi(kernel, text, size);
		break;
	default:
		explain_other(error, text, size);
	}
	return text;
}
