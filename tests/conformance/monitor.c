/*
 * The monitor: a bare-metal program at EL2 that does what the driver's commands say. It sets up
 * stage 2, asks the MMU for translations by AT S12E1R/W, whose answer is PAR_EL1, and lets EL1 do
 * an access. It knows nothing of tables: they are put into RAM by the driver.
 *
 * Stage 1 of EL2 is off, so that its own accesses go to physical addresses.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <stdint.h>
#include "monitor.h"

#define READ(reg)                                                                                  \
    ({                                                                                             \
        uint64_t value_;                                                                           \
        __asm__ volatile("mrs %0, " #reg : "=r"(value_)::"memory");                                \
        value_;                                                                                    \
    })
#define WRITE(reg, value) __asm__ volatile("msr " #reg ", %0" ::"r"((uint64_t)(value)) : "memory")

void enter_guest(volatile uint64_t *mail);
void monitor(void);

static void barrier(void)
{
    __asm__ volatile("dmb sy" ::: "memory");
}

static void invalidate(void)
{
    __asm__ volatile("dsb sy; tlbi alle1; dsb sy; isb" ::: "memory");
}

static void address_translate(const uint64_t *from, uint64_t *to, uint64_t count, int write)
{
    for (uint64_t i = 0; i < count; i++) {
        if (write)
            __asm__ volatile("at s12e1w, %0; isb" ::"r"(from[i]) : "memory");
        else
            __asm__ volatile("at s12e1r, %0; isb" ::"r"(from[i]) : "memory");
        to[i] = READ(par_el1);
    }
}

static void obey(volatile uint64_t *mail)
{
    uint64_t command = mail[MAIL_COMMAND];

    switch (command) {
    case COMMAND_CONFIGURE:
        WRITE(hcr_el2, mail[MAIL_HCR]);
        WRITE(vtcr_el2, mail[MAIL_VTCR]);
        WRITE(vttbr_el2, mail[MAIL_VTTBR]);
        invalidate();
        break;
    case COMMAND_INVALIDATE:
        invalidate();
        break;
    case COMMAND_AT_READ:
    case COMMAND_AT_WRITE:
        address_translate((const uint64_t *)mail[MAIL_FROM], (uint64_t *)mail[MAIL_TO],
                          mail[MAIL_COUNT], command == COMMAND_AT_WRITE);
        break;
    case COMMAND_STAGE_1:
        WRITE(mair_el1, 0xff); /* attribute 0: Normal, Write-Back */
        WRITE(tcr_el1, mail[MAIL_TCR]);
        WRITE(ttbr0_el1, mail[MAIL_TTBR]);
        WRITE(sctlr_el1, mail[MAIL_SCTLR]);
        invalidate();
        break;
    case COMMAND_GUEST:
        enter_guest(mail);
        break;
    case COMMAND_FEATURES:
        mail[MAIL_MMFR0] = READ(id_aa64mmfr0_el1);
        mail[MAIL_MMFR1] = READ(id_aa64mmfr1_el1);
        break;
    }
}

/* A machine whose driver was killed would poll for ever: this ends QEMU. */
static void turn_off(void)
{
    register uint64_t function __asm__("x0") = 0x84000008; /* PSCI SYSTEM_OFF (Arm DEN 0022) */

    __asm__ volatile("smc #0" : "+r"(function)::"memory");
}

void monitor(void)
{
    volatile uint64_t *mail = (volatile uint64_t *)MAIL_BASE;
    uint64_t patience = IDLE_SECONDS * READ(cntfrq_el0);
    uint64_t last = READ(cntpct_el0);

    for (;;) {
        while (mail[MAIL_POSTED] == mail[MAIL_FINISHED])
            if (READ(cntpct_el0) - last > patience)
                turn_off();
        barrier();
        obey(mail);
        barrier();
        mail[MAIL_FINISHED] = mail[MAIL_POSTED];
        last = READ(cntpct_el0);
    }
}
