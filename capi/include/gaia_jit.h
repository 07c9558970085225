/* gaia-jit: executable memory for JIT runtimes. MPL-2.0. Made by cbindgen from capi/src: change it there. */

#ifndef GAIA_JIT_H
#define GAIA_JIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Statuses: every function that can fail returns one. Functions that return an address, a length or a tag return NULL,
 * 0 or false instead, and leave a message too.
 *
 * Handles: what a function writes to `out` belongs to the caller, and is freed by the function `..._free` of its type.
 * It is NULL after an error. NULL for a handle, or where a result is to be written, is GAIA_JIT_STATUS_NULL_POINTER,
 * unless the function says otherwise. A handle that was freed before is undefined behaviour.
 *
 * "Safety" lists what no function checks: what breaks it is undefined behaviour. Enumerations are passed as uint32_t,
 * so that a wrong number is GAIA_JIT_STATUS_INVALID_ARGUMENT.
 *
 * Where the process has no memory for a handle or a message, it is ended (`abort`). */

// What a call came to. If it is not `GAIA_JIT_STATUS_OK`, `gaia_jit_last_error_message` says more,
// and what the call was about is as it was before, unless the function says otherwise.
//
// Numbers keep their meaning. Later versions may return more of them.
typedef enum {
  // It was done.
  GAIA_JIT_STATUS_OK = 0,
  // Code, a slot or a block of no bytes was asked for.
  GAIA_JIT_STATUS_ZERO_SIZE = 1,
  // More than this arena or block could hold even when empty.
  GAIA_JIT_STATUS_TOO_LARGE = 2,
  // An alignment that is no power of two, or above the largest supported one.
  GAIA_JIT_STATUS_BAD_ALIGNMENT = 3,
  // No hole is large enough now: a runtime's cue to free code, or to let guards go.
  GAIA_JIT_STATUS_ARENA_FULL = 4,
  // No hole in the data beside the code is large enough.
  GAIA_JIT_STATUS_DATA_FULL = 5,
  // A write outside the block or slot.
  GAIA_JIT_STATUS_PAST_CAPACITY = 6,
  // The batch has no such slot.
  GAIA_JIT_STATUS_OTHER_BATCH = 7,
  // A branch needs a stub, and its slot has none left.
  GAIA_JIT_STATUS_NO_STUB = 8,
  // A relocation cannot be applied.
  GAIA_JIT_STATUS_LINK = 9,
  // Code was asked for inside its own compilation. Functions of this version do not return it.
  GAIA_JIT_STATUS_RECURSION = 10,
  // The address is not the start of a live block of this arena.
  GAIA_JIT_STATUS_NOT_IN_ARENA = 11,
  // No free address range lies in branch range of the address given to `gaia_jit_builder_near`.
  GAIA_JIT_STATUS_OUT_OF_REACH = 12,
  // This system, or its configuration, does not allow what was asked for.
  GAIA_JIT_STATUS_UNSUPPORTED = 13,
  // The arena belongs to the process that built it; this one is a forked child.
  GAIA_JIT_STATUS_FORKED = 14,
  // A system call failed.
  GAIA_JIT_STATUS_OPERATING_SYSTEM = 15,
  // An error that this version has no number for.
  GAIA_JIT_STATUS_OTHER = 99,
  // A handle or another pointer that has to lead somewhere is NULL.
  GAIA_JIT_STATUS_NULL_POINTER = 100,
  // A number that is none of its enumeration, or arrays of lengths that do not fit together.
  GAIA_JIT_STATUS_INVALID_ARGUMENT = 101,
  // The library failed in a way that it should not: a bug. Handles that the call was given may
  // be freed, and no more.
  GAIA_JIT_STATUS_PANIC = 102,
  // The function that `gaia_jit_publish_with` was given returned 0.
  GAIA_JIT_STATUS_CALLBACK = 103,
} gaia_jit_status;

// How an arena keeps pages from being writable and executable at once.
typedef enum {
  // Private memory, one address. Pages are opened for writing only while they are empty; holes
  // in executable pages are filled through the kernel where it allows that. What is used unless
  // something else is said.
  GAIA_JIT_MODE_FLIP = 0,
  // Shared memory mapped twice: executable at one address, writable at another. No system calls
  // to publish.
  GAIA_JIT_MODE_DUAL_MAP = 1,
  // Private memory, writable for the writing thread alone: protection keys of x86-64 on Linux. A
  // thread that is older than the arena pins it before it calls code that reads its own
  // constants.
  GAIA_JIT_MODE_PER_THREAD = 2,
  // Shared memory mapped for executing alone, to which the arena writes through its descriptor.
  // Linux and Android.
  GAIA_JIT_MODE_FILE_WRITE = 3,
  // A mode that C cannot ask for.
  GAIA_JIT_MODE_OTHER = 99,
} gaia_jit_mode;

// Why holes in pages with live code are not filled.
typedef enum {
  // They are.
  GAIA_JIT_UNFILLED_FILLED = 0,
  // This system has no such call.
  GAIA_JIT_UNFILLED_NO_SUCH_CALL = 1,
  // `/proc/self/mem` could not be opened.
  GAIA_JIT_UNFILLED_NOT_OPENED = 2,
  // A write to an executable page is refused.
  GAIA_JIT_UNFILLED_NOT_WRITTEN = 3,
  // What was written is not what runs: an emulator, as a rule.
  GAIA_JIT_UNFILLED_OTHER_MEMORY = 4,
  // A reason that this version has no number for.
  GAIA_JIT_UNFILLED_OTHER = 99,
} gaia_jit_unfilled;

// A kind of relocation: where in the bytes a target goes, and how. The formulas are those of ELF,
// with the addend given ("RELA"). A branch that does not reach goes through a stub of its slot;
// kinds that load an address from a cell always take a stub.
typedef enum {
  // `R_X86_64_64`
  GAIA_JIT_RELOC_X86_ABS64 = 1,
  // `R_X86_64_32`
  GAIA_JIT_RELOC_X86_ABS32 = 2,
  // `R_X86_64_32S`
  GAIA_JIT_RELOC_X86_ABS32_S = 3,
  // `R_X86_64_PC64`
  GAIA_JIT_RELOC_X86_PC64 = 4,
  // `R_X86_64_PC32`
  GAIA_JIT_RELOC_X86_PC32 = 5,
  // `R_X86_64_PC8`
  GAIA_JIT_RELOC_X86_PC8 = 6,
  // `R_X86_64_PLT32`
  GAIA_JIT_RELOC_X86_CALL32 = 7,
  // `R_X86_64_GOTPCREL`
  GAIA_JIT_RELOC_X86_GOT_PC32 = 8,
  // `R_AARCH64_ABS64`
  GAIA_JIT_RELOC_ARM64_ABS64 = 101,
  // `R_AARCH64_ABS32`
  GAIA_JIT_RELOC_ARM64_ABS32 = 102,
  // `R_AARCH64_PREL64`
  GAIA_JIT_RELOC_ARM64_PREL64 = 103,
  // `R_AARCH64_PREL32`
  GAIA_JIT_RELOC_ARM64_PREL32 = 104,
  // `R_AARCH64_CALL26`
  GAIA_JIT_RELOC_ARM64_CALL26 = 105,
  // `R_AARCH64_JUMP26`
  GAIA_JIT_RELOC_ARM64_JUMP26 = 106,
  // `R_AARCH64_CONDBR19`
  GAIA_JIT_RELOC_ARM64_COND_BR19 = 107,
  // `R_AARCH64_TSTBR14`
  GAIA_JIT_RELOC_ARM64_TST_BR14 = 108,
  // `R_AARCH64_LD_PREL_LO19`
  GAIA_JIT_RELOC_ARM64_LD_PREL_LO19 = 109,
  // `R_AARCH64_ADR_PREL_LO21`
  GAIA_JIT_RELOC_ARM64_ADR_PREL_LO21 = 110,
  // `R_AARCH64_ADR_PREL_PG_HI21`
  GAIA_JIT_RELOC_ARM64_ADR_PREL_PG_HI21 = 111,
  // `R_AARCH64_ADD_ABS_LO12_NC`
  GAIA_JIT_RELOC_ARM64_ADD_ABS_LO12_NC = 112,
  // `R_AARCH64_LDST8_ABS_LO12_NC`
  GAIA_JIT_RELOC_ARM64_LDST8_ABS_LO12_NC = 113,
  // `R_AARCH64_LDST16_ABS_LO12_NC`
  GAIA_JIT_RELOC_ARM64_LDST16_ABS_LO12_NC = 114,
  // `R_AARCH64_LDST32_ABS_LO12_NC`
  GAIA_JIT_RELOC_ARM64_LDST32_ABS_LO12_NC = 115,
  // `R_AARCH64_LDST64_ABS_LO12_NC`
  GAIA_JIT_RELOC_ARM64_LDST64_ABS_LO12_NC = 116,
  // `R_AARCH64_LDST128_ABS_LO12_NC`
  GAIA_JIT_RELOC_ARM64_LDST128_ABS_LO12_NC = 117,
  // `R_AARCH64_MOVW_UABS_G0`
  GAIA_JIT_RELOC_ARM64_MOVW_UABS_G0 = 118,
  // `R_AARCH64_MOVW_UABS_G0_NC`
  GAIA_JIT_RELOC_ARM64_MOVW_UABS_G0_NC = 119,
  // `R_AARCH64_MOVW_UABS_G1`
  GAIA_JIT_RELOC_ARM64_MOVW_UABS_G1 = 120,
  // `R_AARCH64_MOVW_UABS_G1_NC`
  GAIA_JIT_RELOC_ARM64_MOVW_UABS_G1_NC = 121,
  // `R_AARCH64_MOVW_UABS_G2`
  GAIA_JIT_RELOC_ARM64_MOVW_UABS_G2 = 122,
  // `R_AARCH64_MOVW_UABS_G2_NC`
  GAIA_JIT_RELOC_ARM64_MOVW_UABS_G2_NC = 123,
  // `R_AARCH64_MOVW_UABS_G3`
  GAIA_JIT_RELOC_ARM64_MOVW_UABS_G3 = 124,
  // `R_AARCH64_ADR_GOT_PAGE`
  GAIA_JIT_RELOC_ARM64_ADR_GOT_PAGE = 125,
  // `R_AARCH64_LD64_GOT_LO12_NC`
  GAIA_JIT_RELOC_ARM64_LD64_GOT_LO12_NC = 126,
  // `R_RISCV_64`
  GAIA_JIT_RELOC_RISCV_ABS64 = 201,
  // `R_RISCV_32`
  GAIA_JIT_RELOC_RISCV_ABS32 = 202,
  // `R_RISCV_32_PCREL`
  GAIA_JIT_RELOC_RISCV_PCREL32 = 203,
  // `R_RISCV_ADD32`
  GAIA_JIT_RELOC_RISCV_ADD32 = 204,
  // `R_RISCV_ADD64`
  GAIA_JIT_RELOC_RISCV_ADD64 = 205,
  // `R_RISCV_SUB32`
  GAIA_JIT_RELOC_RISCV_SUB32 = 206,
  // `R_RISCV_SUB64`
  GAIA_JIT_RELOC_RISCV_SUB64 = 207,
  // `R_RISCV_CALL_PLT`
  GAIA_JIT_RELOC_RISCV_CALL = 208,
  // `R_RISCV_JAL`
  GAIA_JIT_RELOC_RISCV_JAL = 209,
  // `R_RISCV_BRANCH`
  GAIA_JIT_RELOC_RISCV_BRANCH = 210,
  // `R_RISCV_RVC_JUMP`
  GAIA_JIT_RELOC_RISCV_RVC_JUMP = 211,
  // `R_RISCV_RVC_BRANCH`
  GAIA_JIT_RELOC_RISCV_RVC_BRANCH = 212,
  // `R_RISCV_HI20`
  GAIA_JIT_RELOC_RISCV_HI20 = 213,
  // `R_RISCV_LO12_I`
  GAIA_JIT_RELOC_RISCV_LO12_I = 214,
  // `R_RISCV_LO12_S`
  GAIA_JIT_RELOC_RISCV_LO12_S = 215,
  // `R_RISCV_PCREL_HI20`
  GAIA_JIT_RELOC_RISCV_PCREL_HI20 = 216,
  // `R_RISCV_GOT_HI20`
  GAIA_JIT_RELOC_RISCV_GOT_HI20 = 217,
  // `R_RISCV_PCREL_LO12_I`
  GAIA_JIT_RELOC_RISCV_PCREL_LO12_I = 218,
  // `R_RISCV_PCREL_LO12_S`
  GAIA_JIT_RELOC_RISCV_PCREL_LO12_S = 219,
} gaia_jit_reloc;

// Address space that many functions are packed into. Any number of threads may use one at once.
typedef struct gaia_jit_arena gaia_jit_arena;

// Functions and data that are published together: all or none. Addresses are final before there
// are bytes, so functions can call each other. Slots are numbered from 0 in the order in which
// they came, functions and data apart. One thread at a time may use a batch, and it need not be
// the same one each time.
typedef struct gaia_jit_batch gaia_jit_batch;

// A published function, and the owner of its space. Any number of threads may ask a block about
// itself at once; shrinking and freeing are for one thread while no other uses the handle.
typedef struct gaia_jit_block gaia_jit_block;

// Settings for a new arena. One thread at a time may use it.
typedef struct gaia_jit_builder gaia_jit_builder;

// Constants or variables that lie in reach of code, in memory that is never executable.
typedef struct gaia_jit_data gaia_jit_data;

// One block of executable memory for one thread: write, make executable, call. Each page is either
// writable or executable, never both, so no thread may run code of a block while it is written to.
// One thread at a time may use it.
typedef struct gaia_jit_memory gaia_jit_memory;

// An address that stays while the code behind it changes. It owns the function that it leads to.
// Any number of threads may use it at once, with handles of blocks of their own.
typedef struct gaia_jit_redirect gaia_jit_redirect;

// Keeps the space of code that is freed from now on from being used again, until `gaia_jit_unpin`.
// It lies where the caller puts it, on the stack as a rule, and is for the thread that took it
// alone: it is not copied, and not given to another thread.
//
// A thread takes one before it reads a function's address from where the program keeps it, and
// lets go of it after the last return from generated code.
typedef struct {
  // Not for the caller; NULL if it holds nothing.
  const void *hidden;
} gaia_jit_guard;

// A live function that was found.
typedef struct {
  // The address of its first byte; NULL if the address is in no live function.
  const void *start;
  // Bytes of code; 0 if none was found.
  size_t len;
  // The tag that it was published with; 0 if none was found.
  uint64_t tag;
} gaia_jit_found;

// A function of the caller's that writes code. `address` is where the code will run. `bytes` is
// where it is written now, which is another place; it is `len` bytes, all of them traps so far.
// `context` is what `gaia_jit_publish_with` was given. It returns how many bytes the code takes,
// or 0 if there will be none.
//
// It returns in the usual way: no exception and no `longjmp` leaves it.
typedef size_t (*gaia_jit_write)(void *context, const void *address, uint8_t *bytes, size_t len);

// Figures of an arena at one moment; bytes unless said otherwise. When no other thread is at work,
// `live_bytes + padding_bytes + pending_bytes + batch_bytes + free_bytes == capacity`.
typedef struct {
  // Address space for code.
  size_t capacity;
  // Published blocks that were not freed.
  size_t live_blocks;
  // Their code.
  size_t live_bytes;
  // What rounding to 16 bytes adds to it.
  size_t padding_bytes;
  // Freed blocks whose space waits for a guard.
  size_t pending_blocks;
  // The space they take.
  size_t pending_bytes;
  // Space taken by batches that are open now, and by pages that wait to be made executable
  // again.
  size_t batch_bytes;
  // Space that can be placed in.
  size_t free_bytes;
  // The largest piece of it.
  size_t largest_hole;
  // Memory of pages that code was placed in since they were last trimmed.
  size_t resident_bytes;
  // Address space for data beside the code.
  size_t data_capacity;
  // What of it is in use, with what waits for a guard.
  size_t data_bytes;
  // Blocks of data that were not freed.
  size_t data_blocks;
  // Space of freed blocks of data that waits for a guard.
  size_t pending_data_bytes;
  // Memory of pages that data was placed in since they were last trimmed.
  size_t data_resident_bytes;
  // Whether holes in pages with live code are filled, and if not, why.
  gaia_jit_unfilled unfilled;
  // Protection changes of runs of pages, as calls.
  uint64_t flips;
  // Writes through the kernel to executable pages, as calls.
  uint64_t kernel_writes;
  // Returns of memory to the system, as calls.
  uint64_t decommits;
  // Code passed to the instruction-cache flush.
  uint64_t flushed_bytes;
  // Barriers on other cores, as calls.
  uint64_t barriers;
} gaia_jit_stats;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// An arena with the usual settings. Free it with `gaia_jit_arena_free`.
//
// # Safety
// - A pointer can be written to `out`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_arena_new(gaia_jit_arena **out);

// Frees the handle; nothing for NULL. Blocks, data and batches keep the memory alive, so they may
// be freed later; guards do not, so they end before.
//
// # Safety
// - The arena is NULL or a live handle that nobody else uses, and none of its guards is held.
gaia_jit_status gaia_jit_arena_free(gaia_jit_arena *arena);

// The address of the first byte for code; NULL for NULL.
//
// # Safety
// - The arena is NULL or a live handle.
const void *gaia_jit_arena_base(const gaia_jit_arena *arena);

// Bytes of address space for code; 0 for NULL.
//
// # Safety
// - The arena is NULL or a live handle.
size_t gaia_jit_arena_capacity(const gaia_jit_arena *arena);

// The mode that the arena is in.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - A `gaia_jit_mode` can be written to `mode`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_arena_mode(const gaia_jit_arena *arena, gaia_jit_mode *mode);

// Whether an address lies in the arena, in its code or its data; false for NULL.
//
// # Safety
// - The arena is NULL or a live handle.
bool gaia_jit_arena_contains(const gaia_jit_arena *arena, const void *address);

// Whether a direct branch reaches from all of the arena to `address` and back; false for NULL.
//
// # Safety
// - The arena is NULL or a live handle.
bool gaia_jit_arena_reaches(const gaia_jit_arena *arena, const void *address);

// Gives the memory of wholly empty pages back to the system, and says how many bytes. For quiet
// moments.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - A `size_t` can be written to `bytes`, or it is NULL, if nobody wants to know.
gaia_jit_status gaia_jit_arena_trim(const gaia_jit_arena *arena, size_t *bytes);

// An empty batch. Free it with `gaia_jit_batch_free`, after it was published too.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - A pointer can be written to `out`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_batch_new(const gaia_jit_arena *arena, gaia_jit_batch **out);

// Frees a batch; nothing for NULL. What it holds and was not published is given back.
//
// # Safety
// - The batch is NULL or a live handle that nobody else uses.
gaia_jit_status gaia_jit_batch_free(gaia_jit_batch *batch);

// Functions in the batch so far; 0 for NULL.
//
// # Safety
// - The batch is NULL or a live handle that nobody changes meanwhile.
size_t gaia_jit_batch_len(const gaia_jit_batch *batch);

// Makes all functions executable, and data that is to be read only so. Writes a block for each
// slot to `blocks`, and one for each data slot to `data`; both are in the order of the slots, and
// freed one by one. The code does not keep the data.
//
// The arrays have exactly as many elements as there are slots, or else nothing happens and the
// status is `GAIA_JIT_STATUS_INVALID_ARGUMENT`. Afterwards the batch is empty and can be used
// again, also if it could not be published: then everything is given back, and the arrays are
// filled with NULL.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - `blocks_len` pointers can be written to `blocks`, and `data_len` to `data`, elsewhere. Of a
//   length of 0 the array may be NULL.
gaia_jit_status gaia_jit_batch_publish(gaia_jit_batch *batch,
                                       gaia_jit_block **blocks,
                                       size_t blocks_len,
                                       gaia_jit_data **data,
                                       size_t data_len);

// The address of the function's first byte; NULL for NULL. To call it, convert it to a function
// pointer of the type that the code is written for: `(int (*)(void))(uintptr_t)address`.
//
// # Safety
// - The block is NULL or a live handle.
const void *gaia_jit_block_start(const gaia_jit_block *block);

// Bytes of code; 0 for NULL.
//
// # Safety
// - The block is NULL or a live handle.
size_t gaia_jit_block_len(const gaia_jit_block *block);

// The tag that the function was published with; 0 for NULL.
//
// # Safety
// - The block is NULL or a live handle.
uint64_t gaia_jit_block_tag(const gaia_jit_block *block);

// Gives back what lies behind the first `len` bytes. The space waits for guards as that of a freed
// block does.
//
// # Safety
// - The block is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - No thread runs or will run what is given back, but those that hold a guard taken before.
gaia_jit_status gaia_jit_block_shrink(gaia_jit_block *block, size_t len);

// Frees the function and its handle; nothing for NULL. Its space is used again once the guards
// that are held now have ended.
//
// # Safety
// - The block is NULL or a live handle that nobody else uses.
// - No thread runs the function or will run it, but those that hold a guard taken before.
gaia_jit_status gaia_jit_block_free(gaia_jit_block *block);

// New settings, each as it is unless it is set. Free them with `gaia_jit_builder_free`.
//
// # Safety
// - A pointer can be written to `out`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_builder_new(gaia_jit_builder **out);

// Frees settings; nothing for NULL.
//
// # Safety
// - The builder is NULL or a live handle that nobody else uses.
gaia_jit_status gaia_jit_builder_free(gaia_jit_builder *builder);

// Bytes of address space for code, rounded up to whole pages. Memory is used only as code is
// placed. 256 MiB unless set; 128 MiB on AArch64.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_capacity(gaia_jit_builder *builder, size_t bytes);

// Bytes of address space for data beside the code, rounded up to whole pages. An eighth of the
// capacity unless set; 0 for none.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_data(gaia_jit_builder *builder, size_t bytes);

// How W^X is kept: a number of `gaia_jit_mode`, or else `GAIA_JIT_STATUS_INVALID_ARGUMENT`.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_mode(gaia_jit_builder *builder, uint32_t mode);

// Ways to keep W^X, of which the first is used that the system allows: an array of numbers of
// `gaia_jit_mode`.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - `modes` leads to `count` numbers.
gaia_jit_status gaia_jit_builder_modes(gaia_jit_builder *builder, const uint32_t *modes, size_t count);

// Places the arena so that a direct branch reaches from all of it to `address` and back;
// `gaia_jit_builder_build` fails otherwise.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_near(gaia_jit_builder *builder, const void *address);

// Asks the system for huge pages. A hint: where there are none, small pages serve.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_huge_pages(gaia_jit_builder *builder, bool yes);

// Makes a stale call stop at once, wherever in the arena it goes: freed code is overwritten with
// trap instructions.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_poison(gaia_jit_builder *builder, bool yes);

// Gives memory back to the system by itself when more than `bytes` of it are free. Off unless set.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_keep_free(gaia_jit_builder *builder, size_t bytes);

// Has the system refuse every later change to the protections of the memory for code. Linux since
// 6.10; an error of `gaia_jit_builder_build` elsewhere. The mappings stay when the arena goes.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_seal(gaia_jit_builder *builder, bool yes);

// Lets indirect branches into the arena arrive at landing pads only: Branch Target Identification
// on AArch64 Linux; an error of `gaia_jit_builder_build` elsewhere.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_landing_pads(gaia_jit_builder *builder, bool yes);

// Has every core of the process execute a serialising instruction before new code is given out, on
// x86 too.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_builder_serialize_cores(gaia_jit_builder *builder, bool yes);

// What the arena's mappings are called in the system's list of them. A hint; NULL is an error.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - `name` is NULL or a string that ends with a zero.
gaia_jit_status gaia_jit_builder_name(gaia_jit_builder *builder, const char *name);

// Reserves the address space and tries the mode out. The settings stay, and can be built again.
// Free the arena with `gaia_jit_arena_free`.
//
// # Safety
// - The builder is NULL, which is an error, or a live handle that nobody changes meanwhile.
// - A pointer can be written to `out`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_builder_build(const gaia_jit_builder *builder, gaia_jit_arena **out);

// Places a copy of `len` bytes beside the code, or zeros if `bytes` is NULL. `align` is a power of
// two up to 64 KiB, or 0 for 16. What is not writable is never written to again. Free it with
// `gaia_jit_data_free`.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - `bytes` is NULL or leads to `len` bytes.
// - A pointer can be written to `out`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_data_new(const gaia_jit_arena *arena,
                                  const uint8_t *bytes,
                                  size_t len,
                                  size_t align,
                                  bool writable,
                                  gaia_jit_data **out);

// Frees data and its handle; nothing for NULL. Its space is used again once the guards that are
// held now have ended.
//
// # Safety
// - The data is NULL or a live handle that nobody else uses.
// - Nobody uses the memory, but for threads that hold a guard taken before.
gaia_jit_status gaia_jit_data_free(gaia_jit_data *data);

// The address of the first byte; NULL for NULL.
//
// # Safety
// - The data is NULL or a live handle.
const void *gaia_jit_data_start(const gaia_jit_data *data);

// The same, to write to; NULL also if the data is not writable.
//
// # Safety
// - The data is NULL or a live handle.
void *gaia_jit_data_start_mut(const gaia_jit_data *data);

// Bytes of data; 0 for NULL.
//
// # Safety
// - The data is NULL or a live handle.
size_t gaia_jit_data_len(const gaia_jit_data *data);

// As `gaia_jit_data_new`, but published together with the functions of a batch. Its address is
// known at once.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - `bytes` is NULL or leads to `len` bytes.
// - A `size_t` can be written to `slot`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_batch_data(gaia_jit_batch *batch,
                                    const uint8_t *bytes,
                                    size_t len,
                                    size_t align,
                                    bool writable,
                                    size_t *slot);

// The address of data of a batch; NULL for NULL and for what is no data slot of the batch.
//
// # Safety
// - The batch is NULL or a live handle that nobody changes meanwhile.
const void *gaia_jit_batch_data_address(const gaia_jit_batch *batch, size_t slot);

// What went wrong in the last call on this thread that did not succeed, as a sentence in English;
// empty if nothing ever did. Never NULL. The string lives until the next call of this thread that
// does not succeed, or until the thread ends.
const char *gaia_jit_last_error_message(void);

// Takes a guard: a few nanoseconds, without a lock or an allocation, so signal handlers may.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle that is not freed before the guard has
//   ended.
// - A `gaia_jit_guard` can be written to `guard`, or it is NULL, which is an error. It holds no
//   guard, or that one never ends.
gaia_jit_status gaia_jit_pin(const gaia_jit_arena *arena, gaia_jit_guard *guard);

// Ends a guard. One that holds nothing is `GAIA_JIT_STATUS_NULL_POINTER`: a guard ends once.
//
// # Safety
// - The guard is NULL, which is an error, or `gaia_jit_pin` wrote it, on this thread. Its arena
//   lives.
gaia_jit_status gaia_jit_unpin(gaia_jit_guard *guard);

// Applies a relocation that refers to a function of the same batch: puts the target into the bytes
// of `slot` at `offset`, as `kind` says, a number of `gaia_jit_reloc`. The bytes are in place
// before, because only a part of an instruction is replaced. A call of x86-64, which counts from
// behind its four bytes, has an addend of -4.
//
// What does not fit is `GAIA_JIT_STATUS_LINK`, and the bytes are as they were.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_batch_link_slot(gaia_jit_batch *batch,
                                         size_t slot,
                                         size_t offset,
                                         uint32_t kind,
                                         size_t target,
                                         int64_t addend);

// As `gaia_jit_batch_link_slot`, for data of the same batch.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_batch_link_data(gaia_jit_batch *batch,
                                         size_t slot,
                                         size_t offset,
                                         uint32_t kind,
                                         size_t target,
                                         int64_t addend);

// As `gaia_jit_batch_link_slot`, for any address: a function of the program, or a block or data
// that was published before. It is not kept alive by this.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_batch_link_address(gaia_jit_batch *batch,
                                            size_t slot,
                                            size_t offset,
                                            uint32_t kind,
                                            const void *target,
                                            int64_t addend);

// Finds the live function that holds the byte at `address`. No lock, no allocation: signal
// handlers may. A return address names the instruction behind the call, so ask for `pc - 1` for
// all frames but the innermost.
//
// That there is none is no error: `start` is NULL then.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - A `gaia_jit_found` can be written to `found`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_lookup(const gaia_jit_arena *arena, const void *address, gaia_jit_found *found);

// As `gaia_jit_lookup` for many addresses, for instance of a whole stack; their cache misses
// overlap.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - `addresses` leads to `count` addresses, and `count` answers can be written to `found`,
//   elsewhere.
gaia_jit_status gaia_jit_lookup_many(const gaia_jit_arena *arena,
                                     const void *const *addresses,
                                     size_t count,
                                     gaia_jit_found *found);

// A block of `capacity` bytes, rounded up to whole pages; writable and empty. Free it with
// `gaia_jit_memory_free`.
//
// # Safety
// - A pointer can be written to `out`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_memory_new(size_t capacity, gaia_jit_memory **out);

// Frees a block and its memory; nothing for NULL.
//
// # Safety
// - The memory is NULL or a live handle that nobody else uses, and no thread runs what is in it.
gaia_jit_status gaia_jit_memory_free(gaia_jit_memory *memory);

// Appends code, and says at which offset.
//
// # Safety
// - The memory is NULL, which is an error, or a live handle that nobody else uses meanwhile, and
//   no thread runs what is in it.
// - `code` leads to `len` bytes outside of it.
// - A `size_t` can be written to `offset`, or it is NULL, if nobody wants to know.
gaia_jit_status gaia_jit_memory_write(gaia_jit_memory *memory, const uint8_t *code, size_t len, size_t *offset);

// Makes what was written executable.
//
// # Safety
// - The memory is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_memory_make_executable(gaia_jit_memory *memory);

// Makes all code writable again. `gaia_jit_memory_write` does by itself what it needs.
//
// # Safety
// - The memory is NULL, which is an error, or a live handle that nobody else uses meanwhile, and
//   no thread runs what is in it.
gaia_jit_status gaia_jit_memory_make_writable(gaia_jit_memory *memory);

// The address of the first byte; NULL for NULL.
//
// # Safety
// - The memory is NULL or a live handle.
const void *gaia_jit_memory_start(const gaia_jit_memory *memory);

// Bytes written; 0 for NULL.
//
// # Safety
// - The memory is NULL or a live handle that nobody changes meanwhile.
size_t gaia_jit_memory_len(const gaia_jit_memory *memory);

// Bytes that can be written, a multiple of the page size; 0 for NULL.
//
// # Safety
// - The memory is NULL or a live handle.
size_t gaia_jit_memory_capacity(const gaia_jit_memory *memory);

// Overwrites code of a block from `offset` on. Every core runs the new bytes when it returns. They
// are not written in one piece.
//
// `GAIA_JIT_STATUS_OPERATING_SYSTEM` means that some of the bytes may be there: the block is not
// to be run before a patch of the same bytes succeeds. `GAIA_JIT_STATUS_UNSUPPORTED` is for
// `GAIA_JIT_MODE_FLIP` where the kernel does not write into executable pages.
//
// # Safety
// - The block is NULL, which is an error, or a live handle.
// - `bytes` leads to `len` bytes, outside of the block.
// - No other thread writes the same bytes of the block, and no thread runs them meanwhile.
gaia_jit_status gaia_jit_block_patch(const gaia_jit_block *block, size_t offset, const uint8_t *bytes, size_t len);

// Changes four bytes of code, in the byte order of the machine, by one store that no thread sees
// in parts. Threads may be running them: each runs the old bytes or the new ones. A thread that
// learns of it, by any means that synchronises, after this has returned runs the new ones.
//
// `offset` is a multiple of 4, and the mode `GAIA_JIT_MODE_DUAL_MAP` or
// `GAIA_JIT_MODE_PER_THREAD`: the status is `GAIA_JIT_STATUS_UNSUPPORTED` otherwise. It is that on
// AArch64 also if the old or the new instruction is none of B, BL, BRK, HVC, ISB, NOP, SMC and
// SVC, because the architecture promises nothing about others.
//
// # Safety
// - The block is NULL, which is an error, or a live handle.
// - No other thread writes the same bytes.
// - Wherever in the four bytes a thread may be about to run an instruction, one begins before and
//   after the change. The program is right whichever of the two a thread runs.
gaia_jit_status gaia_jit_block_patch_u32(const gaia_jit_block *block, size_t offset, uint32_t word);

// As `gaia_jit_block_patch_u32` for eight bytes, at a multiple of 8. Never on AArch64.
//
// # Safety
// - As for `gaia_jit_block_patch_u32`.
gaia_jit_status gaia_jit_block_patch_u64(const gaia_jit_block *block, size_t offset, uint64_t word);

// Copies code into the arena, makes it executable and sees to it that every core runs the new
// bytes. Free the block with `gaia_jit_block_free`; that frees the function.
//
// `align` is a power of two up to 2 MiB, or 0 for 16. `tag` is a number of the caller's, which
// lookups return. `name` may be NULL.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - `code` leads to `len` bytes.
// - `name` is NULL or a string that ends with a zero.
// - A pointer can be written to `out`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_publish(const gaia_jit_arena *arena,
                                 const uint8_t *code,
                                 size_t len,
                                 size_t align,
                                 uint64_t tag,
                                 const char *name,
                                 gaia_jit_block **out);

// Publishes a function whose bytes depend on its address. `write` is called once, on this thread,
// unless there is no space of `len` bytes. It may use the arena, because no lock is held. The
// bytes of the `len` that it does not take are free again. The other parameters are those of
// `gaia_jit_publish`.
//
// The arena is as it was after an error. It is `GAIA_JIT_STATUS_CALLBACK` if `write` returned 0,
// and `GAIA_JIT_STATUS_PAST_CAPACITY` if it returned more than `len`.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle, which `write` does not free.
// - `write` is NULL, which is an error, or as `gaia_jit_write` says. It writes to no bytes but
//   those that it is given, and to these only until it returns.
// - `name` is NULL or a string that ends with a zero.
// - A pointer can be written to `out`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_publish_with(const gaia_jit_arena *arena,
                                      size_t len,
                                      size_t align,
                                      uint64_t tag,
                                      const char *name,
                                      gaia_jit_write write,
                                      void *context,
                                      gaia_jit_block **out);

// Makes an address that leads to `*block` until it is changed: 16 bytes of code that jump through
// a pointer in the data area. Calls through it pass all arguments on. Free it with
// `gaia_jit_redirect_free`.
//
// The redirect takes the block: `*block` is NULL afterwards. After an error too, for then the
// block is freed. The block may be of another arena.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - `block` is NULL, which is an error, or leads to a pointer that nobody else uses meanwhile.
//   That is NULL, which is an error, or a live handle that nobody else uses, and no thread runs
//   the function or will run it but through the redirect.
// - A pointer can be written to `out`, elsewhere, or it is NULL, which is an error.
gaia_jit_status gaia_jit_redirect_new(const gaia_jit_arena *arena, gaia_jit_block **block, gaia_jit_redirect **out);

// Frees the address, the function that it leads to, and the handle; nothing for NULL. Their space
// is used again once the guards that are held now have ended.
//
// # Safety
// - The redirect is NULL or a live handle that nobody else uses.
// - No thread calls the address or runs the function, or will, but those that hold a guard of both
//   their arenas taken before.
gaia_jit_status gaia_jit_redirect_free(gaia_jit_redirect *redirect);

// The address that stays; NULL for NULL. It is called as that of a block is.
//
// # Safety
// - The redirect is NULL or a live handle.
const void *gaia_jit_redirect_start(const gaia_jit_redirect *redirect);

// The address where calls arrive now; NULL for NULL.
//
// # Safety
// - The redirect is NULL or a live handle.
const void *gaia_jit_redirect_target(const gaia_jit_redirect *redirect);

// Sends calls to `*block` from now on, and writes the block to `*block` that they went to before:
// the caller frees that one. A call that has begun goes on where it is. One atomic exchange: no
// code changes. Threads that swap at once wait for each other.
//
// After an error calls go where they went, `*block` is NULL, and the block that was there is
// freed.
//
// # Safety
// - The redirect is NULL, which is an error, or a live handle.
// - `block` is NULL, which is an error, or leads to a pointer that nobody else uses meanwhile.
//   That is NULL, which is an error, or a live handle that nobody else uses, of a function of the
//   type that callers of the address call; no thread runs it or will run it but through the
//   redirect.
// - The block that comes back is freed when no thread runs its function, but for threads that hold
//   a guard of its arena taken before they called the address.
gaia_jit_status gaia_jit_redirect_swap(const gaia_jit_redirect *redirect, gaia_jit_block **block);

// Adds a function, whose bytes can still be changed. The parameters are those of
// `gaia_jit_publish`.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - `code` leads to `len` bytes.
// - `name` is NULL or a string that ends with a zero.
// - A `size_t` can be written to `slot`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_batch_push(gaia_jit_batch *batch,
                                    const uint8_t *code,
                                    size_t len,
                                    size_t align,
                                    uint64_t tag,
                                    const char *name,
                                    size_t *slot);

// Adds a function of `len` bytes whose code comes later; until then it is filled with traps.
// Behind it is room for `stubs` stubs: one for each target of `gaia_jit_batch_link_address` and
// its like that a branch may not reach. They count to its length.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - A `size_t` can be written to `slot`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_batch_reserve(gaia_jit_batch *batch, size_t len, size_t align, size_t stubs, size_t *slot);

// Sets the tag of a slot.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
gaia_jit_status gaia_jit_batch_set_tag(gaia_jit_batch *batch, size_t slot, uint64_t tag);

// Sets the name of a slot; NULL is an error.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - `name` is NULL or a string that ends with a zero.
gaia_jit_status gaia_jit_batch_set_name(gaia_jit_batch *batch, size_t slot, const char *name);

// The address at which the slot's code will run; NULL for NULL and for what is no slot of the
// batch.
//
// # Safety
// - The batch is NULL or a live handle that nobody changes meanwhile.
const void *gaia_jit_batch_address(const gaia_jit_batch *batch, size_t slot);

// The slot's bytes, to write to. They are there until the next call with this batch: another slot
// may move them. The address is not the one at which the code will run.
//
// # Safety
// - The batch is NULL, which is an error, or a live handle that nobody else uses meanwhile.
// - A pointer can be written to `bytes`, or it is NULL, which is an error.
// - A `size_t` can be written to `len`, or it is NULL, if nobody wants to know.
gaia_jit_status gaia_jit_batch_bytes(gaia_jit_batch *batch, size_t slot, uint8_t **bytes, size_t *len);

// What the arena holds now, and what it has asked of the system.
//
// # Safety
// - The arena is NULL, which is an error, or a live handle.
// - A `gaia_jit_stats` can be written to `stats`, or it is NULL, which is an error.
gaia_jit_status gaia_jit_arena_stats(const gaia_jit_arena *arena, gaia_jit_stats *stats);

// The version of the library, as "0.2.0". The string lives as long as the program.
const char *gaia_jit_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* GAIA_JIT_H */
