//! The calls of the process's unwinder.
//!
//! | type | registers | with |
//! |---|---|---|
//! | [`Registered`] | the functions of one block, each by itself | `__register_frame` |
//! | [`Table`] | many functions as one table, where libgcc keeps lists | `__register_frame_table` |
//!
//! [`list_of_tables`] finds out whether libgcc keeps lists. [`search`] makes it do the work that it
//! postpones. [`NoSignals`] blocks signals around both. The caller holds the lock of
//! [`super::native`]'s state.

use super::eh_frame::Frames;

// From the unwinder that the standard library is linked with.
unsafe extern "C" {
    fn __register_frame(begin: *const usize);
    fn __deregister_frame(begin: *const usize);
}

/// Frames that are registered, each FDE by itself.
pub(super) struct Registered(Frames);

impl Registered {
    pub(super) fn new(frames: Frames) -> Self {
        for entry in frames.entries() {
            // SAFETY: `entry` is an FDE with its CIE before it and a zero after it. libgcc takes it
            // for a list of one, and LLVM's libunwind for an FDE. `relocate` has checked both, and
            // they do not move before they are deregistered.
            unsafe { __register_frame(entry) };
        }
        Self(frames)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        for entry in self.0.entries() {
            // SAFETY: `new` registered the entry, and it is deregistered once. No thread unwinds
            // through the function, so none reads the entry: this happens when no guard is left,
            // and without guards the caller that drops a block promises that nobody runs it.
            unsafe { __deregister_frame(entry) };
        }
    }
}

/// `__register_frame_table` of a libgcc that keeps lists.
#[derive(Clone, Copy)]
pub(super) struct RegisterTable(Register);

type Register = unsafe extern "C" fn(*const usize);

/// A table of frames, registered as one.
pub(super) struct Table(Vec<usize>);

impl Table {
    /// Registers the frames together. Returns `None` if there are none.
    ///
    /// # Safety
    /// - The frames outlive the returned table.
    pub(super) unsafe fn new<'f>(register: RegisterTable, frames: impl Iterator<Item = &'f Frames>) -> Option<Self> {
        let mut table: Vec<usize> = frames.flat_map(Frames::entries).map(<*const usize>::expose_provenance).collect();
        if table.is_empty() {
            return None;
        }
        table.push(0);
        // SAFETY: the table holds addresses of FDEs as in `Registered::new`, ended by a null. They
        // do not move before they are deregistered.
        unsafe { (register.0)(table.as_ptr()) };
        Some(Self(table))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: `new` registered the table, and it is deregistered once. The table itself is read
        // only under the unwinder's lock. A thread that unwinds through a function reads the
        // frames, which stay.
        unsafe { __deregister_frame(self.0.as_ptr()) };
    }
}

/// Returns the call that registers tables, if the unwinder is a libgcc that keeps registrations in
/// lists. These are all versions before 13.
///
/// libgcc has no call that returns its version. But a caller can provide the memory of a list entry
/// (`__register_frame_info`). In a libgcc with lists, the second of two entries then contains the
/// address of the first as its next entry. A newer libgcc, which has a tree elsewhere, does not
/// write it. Other unwinders do not have the call. If another thread registers or unwinds at this
/// moment, nothing is found. Then functions are registered one by one, which is slower and as
/// right.
pub(super) fn list_of_tables() -> Option<RegisterTable> {
    // Deregistration reads the first four bytes of a table. Only on little-endian machines are
    // these the low half of an address.
    if cfg!(target_endian = "big") {
        return None;
    }
    (0..3).find_map(|_| probe())
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn probe() -> Option<RegisterTable> {
    None
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn probe() -> Option<RegisterTable> {
    use super::eh_frame;
    use std::ffi::CStr;

    type RegisterInfo = unsafe extern "C" fn(*const usize, *mut usize);
    type DeregisterInfo = unsafe extern "C" fn(*const usize) -> *mut usize;
    /// A number of words that is larger than libgcc's `struct object`, which has at most eight.
    const OBJECT: usize = 64;
    /// A CIE without instructions, and an FDE for one byte.
    fn frame() -> Vec<u8> {
        let cie = [0_u32.to_ne_bytes().as_slice(), &[1, 0, 1, 0x78, 0]].concat();
        let distance = 4 + cie.len() as u32 + 4;
        let fde = [distance.to_ne_bytes().as_slice(), &0_usize.to_ne_bytes(), &1_usize.to_ne_bytes()].concat();
        let entry = |body: Vec<u8>| [(body.len() as u32).to_ne_bytes().to_vec(), body].concat();
        [entry(cie), entry(fde)].concat()
    }
    // A process may have two unwinders: one that it uses, and a libgcc that some library loaded.
    let used = used_unwinder()?;
    let find = |name: &CStr| {
        // SAFETY: `name` is a C string, and the call searches loaded objects only.
        let at = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        (!at.is_null() && object_of(at).is_some_and(|(base, _)| base == used)).then_some(at)
    };
    let (register, deregister, table) =
        (find(c"__register_frame_info")?, find(c"__deregister_frame_info")?, find(c"__register_frame_table")?);
    // SAFETY: it is libgcc's function of this name, and its type never changed.
    let register = unsafe { std::mem::transmute::<*mut libc::c_void, RegisterInfo>(register) };
    // SAFETY: it is libgcc's function of this name, as above.
    let deregister = unsafe { std::mem::transmute::<*mut libc::c_void, DeregisterInfo>(deregister) };
    // SAFETY: it is libgcc's function of this name, as above.
    let table = RegisterTable(unsafe { std::mem::transmute::<*mut libc::c_void, Register>(table) });

    let mut objects = vec![0_usize; 2 * OBJECT];
    let (first, second) = (objects.as_mut_ptr(), objects.as_mut_ptr().wrapping_add(OBJECT));
    // The frames are for addresses without code.
    let frames = [first, second].map(|at| eh_frame::relocate(&frame(), at.addr(), 1).ok());
    let [Some(before), Some(after)] = frames else { return None };
    let (before, after) = (before.entries().next()?, after.entries().next()?);
    // SAFETY: an FDE as in `Registered::new`, and memory for an object. Both live until they are
    // deregistered below.
    unsafe { register(before, first) };
    // SAFETY: an FDE and memory, as above.
    unsafe { register(after, second) };
    // SAFETY: the object was registered above. libgcc writes to it under its lock, or not any more.
    let linked = (0..OBJECT).any(|word| unsafe { second.wrapping_add(word).read_volatile() } == first.addr());
    // SAFETY: it was registered above.
    unsafe { deregister(after) };
    // SAFETY: it was registered above.
    unsafe { deregister(before) };
    linked.then_some(table)
}

/// Makes the unwinder do now the work that it would do in its next search.
///
/// A libgcc that keeps lists sorts new entries in the first search after their registration, and
/// allocates for that. If a profiler makes that search in a signal handler that interrupted
/// `malloc`, it never ends. No entry has the address that is searched here, so the search visits
/// all new entries.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(super) fn search() {
    unsafe extern "C" {
        fn _Unwind_Find_FDE(pc: *const u8, bases: *mut [usize; 3]) -> *const u8;
    }
    let mut bases = [0; 3];
    // SAFETY: if the call finds an entry, it writes the three addresses of `struct dwarf_eh_bases`.
    unsafe { _Unwind_Find_FDE(std::ptr::without_provenance(1), &raw mut bases) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(super) fn search() {}

/// Blocks signals in this thread until it is dropped, except those that a fault of the thread
/// raises.
///
/// The unwinder holds locks while it registers and deregisters. A signal handler on the thread that
/// holds them would wait for them for ever if it walks the stack.
pub(super) struct NoSignals(Option<libc::sigset_t>);

impl NoSignals {
    pub(super) fn new() -> Self {
        let (mut all, mut old) = (std::mem::MaybeUninit::uninit(), std::mem::MaybeUninit::uninit());
        // SAFETY: the set is valid for the call to write to.
        unsafe { libc::sigfillset(all.as_mut_ptr()) };
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGABRT] {
            // SAFETY: the set was filled above.
            unsafe { libc::sigdelset(all.as_mut_ptr(), fault) };
        }
        // SAFETY: `all` was filled above, and `old` is valid for the call to write to.
        let blocked = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), old.as_mut_ptr()) } == 0;
        // SAFETY: the call succeeded, so it has written the set.
        Self(blocked.then(|| unsafe { old.assume_init() }))
    }
}

impl Drop for NoSignals {
    fn drop(&mut self) {
        if let Some(old) = &self.0 {
            // SAFETY: it is the set that this thread had before, and a null pointer asks for no old
            // set.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, old, std::ptr::null_mut()) };
        }
    }
}

/// Returns the base address of the loaded object whose `__register_frame` this program calls.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn used_unwinder() -> Option<usize> {
    let (base, defined) = object_of(__register_frame as *const libc::c_void)?;
    if defined {
        return Some(base);
    }
    // In a program that is loaded at a fixed place, the address is that of a jump into the object.
    // The jump leads to the next definition after the program, in the order of lookup.
    // SAFETY: the name is a C string, and the call searches loaded objects only.
    let at = unsafe { libc::dlsym(libc::RTLD_NEXT, c"__register_frame".as_ptr()) };
    object_of(at).map(|(base, _)| base)
}

/// Returns the base address of the loaded object that contains an address, and whether the nearest
/// symbol is defined there.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn object_of(at: *const libc::c_void) -> Option<(usize, bool)> {
    #[cfg(target_pointer_width = "32")]
    use libc::Elf32_Sym as Symbol;
    #[cfg(target_pointer_width = "64")]
    use libc::Elf64_Sym as Symbol;
    // In glibc since 2.3.3. The `libc` crate does not have it.
    unsafe extern "C" {
        fn dladdr1(
            address: *const libc::c_void,
            info: *mut libc::Dl_info,
            symbol: *mut *const Symbol,
            kind: libc::c_int,
        ) -> libc::c_int;
    }
    const RTLD_DL_SYMENT: libc::c_int = 1;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let mut symbol = std::ptr::null();
    // SAFETY: both are valid for the call to write to, and `symbol` has the type for this kind.
    if unsafe { dladdr1(at, info.as_mut_ptr(), &raw mut symbol, RTLD_DL_SYMENT) } == 0 {
        return None;
    }
    // SAFETY: zeros are valid, and so are the values that the call wrote.
    let base = unsafe { info.assume_init() }.dli_fbase;
    // SAFETY: it is null, or a symbol of an object that stays loaded: this program, or an unwinder
    // that it is linked with.
    let symbol = unsafe { symbol.as_ref() };
    // `SHN_UNDEF`.
    Some((base.addr(), symbol.is_none_or(|symbol| symbol.st_shndx != 0)))
}
