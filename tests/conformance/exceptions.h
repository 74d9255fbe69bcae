/* What exceptions.S and the test of it have in common: words of a case, and where things lie.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#define PROGRAM 0x48000000
#define CASES 0x48100000
#define READ_SPSR_ARM 0x48200000   /* mrs r1, spsr; hvc #0 */
#define READ_SPSR_THUMB 0x48200010 /* the same */

/* Before the exception: */
#define CASE_HCR 0
#define CASE_PC 1
#define CASE_PSTATE 2
#define CASE_SCTLR 3
#define CASE_VBAR 4
#define CASE_TCR 5
#define CASE_ESR 6
#define CASE_IFSR 7
#define CASE_FAR 8
#define CASE_ADDRESS 9 /* in x4 */
#define CASE_LEFT 10   /* how many cases there are from this one on */
/* Behind it: */
#define TAKEN_CLASS 11 /* ESR_EL2 of the HVC in EL1's vector */
#define TAKEN_PC 12    /* behind the HVC */
#define TAKEN_PSTATE 13
#define TAKEN_ELR 14
#define TAKEN_SPSR 15
#define TAKEN_LR_ABT 16
#define TAKEN_LR_UND 17
#define TAKEN_ESR 18
#define TAKEN_IFSR 19
#define TAKEN_FAR 20
#define CASE_WORDS 24
