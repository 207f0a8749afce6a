/* SPDX-License-Identifier: MIT */
/*
 * A guest whose every instruction is known, for test_plugin.py: 64 KiB that take the place of the
 * firmware and run in 16-bit mode from the processor's first instruction on. Its labels stand in
 * for System.map: functions that the plugin knows by name are here under the same names, a few
 * instructions each. Comments give the number of instructions, as the test's table does.
 *
 * With ENDLESS defined the guest goes on for ever instead of leaving.
 */
	.code16
	.globl _start

	.macro function name
	.type \name, @function
\name:
	.endm

	.text
.Lbase:
function _start				/* 8 */
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7000, %sp
	cld
	jmp	main

function straight			/* 2 + 2 * 1000 + 1 = 2003 */
	nop
	movw	$1000, %cx
1:	decw	%cx
	jnz	1b
	ret

function copy_inline			/* 5: 500 iterations, one instruction */
	movw	$500, %cx
	movw	$0x7000, %si
	movw	$0x6000, %di
	rep movsb
	ret

function copy_target			/* 5: the string instruction begins a block */
	movw	$300, %cx
	movw	$0x6000, %di
	jmp	1f
1:	rep stosb
	ret

function copy_nothing			/* 3 */
	xorw	%cx, %cx
	rep stosb
	ret

function copy_twice			/* 6: one string instruction after the other */
	movw	$20, %cx
	movw	$0x6000, %di
	rep stosb
	movw	$30, %cx
	rep stosb
	ret

function waits_inline			/* 3, its last look and ret; spin (1 + 1) + 2 * 3 */
	movw	$3, %cx
1:	pause
	decw	%cx
	jnz	1b
	ret

function waits_by_call			/* 4, and 3 of looks; spin (1 + 1) + 4 * (1 + 1 + 3 + 2) */
	movw	$5, %cx
1:	pause
	call	looks
	decw	%cx
	jnz	1b
	ret

function looks				/* 3 of the last call */
	nop
	nop
	ret

function pauses_once			/* 1 + 2 * 100 + 2, what followed was work; spin 1 */
	pause
	movw	$100, %cx
1:	decw	%cx
	jnz	1b
	nop
	ret

function queued_spin_lock_slowpath	/* spin 4 */
	nop
	nop
	nop
	ret

function asm_sysvec_apic_timer_interrupt	/* tick 4, and the 3 of tick_work */
	nop
	call	tick_work
	call	irq_exit_rcu
	ret

function tick_work			/* 3 when called from main */
	nop
	nop
	ret

function irq_exit_rcu			/* 2 */
	call	soft_work
	ret

function soft_work			/* 3 */
	nop
	nop
	ret

function default_idle			/* idle 3, and the 3 of idle_work */
	nop
	call	idle_work
	jmp	schedule_idle

function idle_work			/* 3 when called from main */
	nop
	nop
	ret

function schedule_idle			/* 2: work */
	nop
	ret

function entry_SYSCALL_64		/* 2, and an event */
	nop
	ret

function work_after_idle		/* 2 */
	nop
	ret

/* The compiler's clone: counts by the name of its function. */
function straight.cold			/* 3 */
	nop
	nop
	ret

function main				/* 18 calls + 1 */
	call	straight
	call	copy_inline
	call	copy_target
	call	copy_nothing
	call	copy_twice
	call	waits_inline
	call	waits_by_call
	call	pauses_once
	call	crosses_page
	call	queued_spin_lock_slowpath
	call	asm_sysvec_apic_timer_interrupt
	call	tick_work
	call	default_idle
	call	entry_SYSCALL_64
	call	work_after_idle
	call	idle_work
	call	entry_SYSCALL_64
	call	straight.cold
#ifdef ENDLESS
	jmp	for_ever
#else
	jmp	leave
#endif

function leave				/* 3, or some more: how output ends a block differs */
	movw	$0xf4, %dx		/* isa-debug-exit */
	xorb	%al, %al
	outb	%al, %dx
	hlt

#ifdef ENDLESS
function for_ever
	nop
	jmp	for_ever
#endif

	.org	0x1ffd
function crosses_page			/* 4: the page ends within the third */
	nop
	nop
	movw	$0x1234, %ax
	ret

/* The processor begins here, under another address than System.map's: 1 for the user slot. */
	.org	0xfff0
end:
	ljmp	$0xf000, $(_start - .Lbase)
	.org	0x10000
