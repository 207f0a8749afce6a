/* SPDX-License-Identifier: MIT */
/*
 * Two processors that take turns, for test_lines.py: 64 KiB that take the place of the firmware.
 * Each waits until it is its turn, writes to a line that both write, to one of its own, and gives
 * the turn to the other; TURNS times. Who writes last in a line is known at every moment, and with
 * it how often that changes:
 *
 *	0x7000	the turn, by give_turn: 2 * TURNS - 1 times
 *	0x8000	by both, by write_shared: 2 * TURNS - 1
 *	0xb000	by both, by a helper that write_shared goes to: 2 * TURNS - 1
 *	0x9000	by the first processor alone, by write_own: never
 */
	.code16
	.globl _start

	.equ TURNS, 50
	.equ ICR, 0xfee00300		/* the local APIC's: sends interrupts to processors */
	.equ INIT_OTHERS, 0xc4500
	.equ START_OTHERS, 0xc46f1	/* in real mode, at 0xf1000 */

	.text
.Lbase:
.Lgdt:	.quad 0				/* flat segments of 4 GiB */
	.quad 0x00cf9b000000ffff
	.quad 0x00cf93000000ffff
.Lgdtr:	.word . - .Lgdt - 1
	.long 0xf0000 + (.Lgdt - .Lbase)

	.macro protected_mode to
	cli
	lgdtl %cs:(.Lgdtr - .Lbase)
	movl %cr0, %eax
	orl $1, %eax
	movl %eax, %cr0
	ljmpl $8, $\to
	.endm

_start:
	protected_mode first

	.code32
first:
	movw $0x10, %ax
	movw %ax, %ds
	movl $INIT_OTHERS, ICR
	movl $START_OTHERS, ICR
	xorl %ebx, %ebx
	movl $0x9000, %esi
	jmp take_turns

second:
	movw $0x10, %ax
	movw %ax, %ds
	movl $1, %ebx
	movl $0xa000, %esi
	jmp take_turns

/* %ebx: 0 or 1, whose turn it waits for; %esi: a line of its own. No stack: there may be none. */
take_turns:
	movl $TURNS, %ecx
	movl $_raw_helper, %edi
1:	cmpl %ebx, 0x7000
	je write_shared
	pause
	jmp 1b
write_shared:
	incl 0x8000
	incl 0x8004
	jmp *%edi
_raw_helper:				/* counts for who called it last, by a store */
	incl 0xb000
write_own:
	incl (%esi)
give_turn:
	movl %ebx, %eax
	xorl $1, %eax
	movl %eax, 0x7000
next:
	decl %ecx
	jnz 1b
	testl %ebx, %ebx
	jz leave
1:	hlt
	jmp 1b
/* Not before the other one has had its last turn. */
leave:
	cmpl %ebx, 0x7000
	jne leave
	movl $0xf4, %edx		/* isa-debug-exit */
	xorb %al, %al
	outb %al, %dx
2:	hlt
	jmp 2b

/* The second processor begins here. */
	.code16
	.org 0x1000
other:
	ljmp $0xf000, $(.Lother - .Lbase)
.Lother:
	protected_mode second

	.org 0xfff0
end:
	ljmp $0xf000, $(_start - .Lbase)
	.org 0x10000
