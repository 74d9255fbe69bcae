/*
 * What the monitor and its driver agree on. The driver reads the names and numbers from this file.
 *
 * The mailbox is a row of 64-bit words in RAM. The driver fills in a command and its arguments,
 * then adds one to MAIL_POSTED; the monitor carries it out, then makes MAIL_FINISHED equal to it.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef MONITOR_H
#define MONITOR_H

#define MONITOR_BASE 0x100000000  /* where the program is linked: beyond RAM that Xen used */
#define MONITOR_STACK 0x100100000 /* its end: it grows down */
#define MAIL_BASE 0x100100000

#define MAIL_POSTED 0
#define MAIL_FINISHED 1
#define MAIL_LOST 2 /* 1 once the monitor took an exception of its own: MAIL_ESR, MAIL_PC */
#define MAIL_COMMAND 3

#define COMMAND_CONFIGURE 1 /* HCR, VTCR, VTTBR; and an invalidation */
#define MAIL_HCR 4
#define MAIL_VTCR 5
#define MAIL_VTTBR 6

#define COMMAND_INVALIDATE 2

#define COMMAND_AT_READ 3  /* AT S12E1R of COUNT addresses at FROM; the PARs go to TO */
#define COMMAND_AT_WRITE 4 /* AT S12E1W */
#define MAIL_COUNT 4
#define MAIL_FROM 5
#define MAIL_TO 6

#define COMMAND_STAGE_1 5 /* EL1's own translation: on, off, or another one */
#define MAIL_SCTLR 4
#define MAIL_TCR 5
#define MAIL_TTBR 6

#define COMMAND_GUEST 6 /* EL1 from PC with X0 and X1; then X1, X2 and the syndrome are set */
#define MAIL_PC 7
#define MAIL_X0 8
#define MAIL_X1 9
#define MAIL_X2 10
#define MAIL_ESR 11
#define MAIL_FAR 12
#define MAIL_HPFAR 13

#define COMMAND_FEATURES 7 /* ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1 */
#define MAIL_MMFR0 4
#define MAIL_MMFR1 5

#define MAIL_WORDS 16

#endif
