//! A generator of random programs. They are valid by construction, run for a short time, and have
//! all sizes.
//!
//! | property | how it is reached |
//! |---|---|
//! | every name is known | `visible` has the locals at this point, and each block removes its own |
//! | calls end | a function calls only functions after itself, or itself with an argument that shrinks |
//! | loops end | a counter goes to 6 at most, and no other statement assigns to it |
//! | the run ends | the budget of steps stops a program that is still too long |
//! | a wrong local shows | the result is the sum of all visible locals, each times another odd number |
//!
//! The programs are source text, so that they are processed like programs of the user. The same
//! seed gives the same text, so a difference between the engines can be repeated.

use std::fmt::Write;

use fastrand::Rng;

/// The budget of steps. Most runs end by themselves within it. The others test that both engines
/// stop at the same step.
const STEPS: u32 = 400;

const ARITHMETIC: [&str; 11] = ["+", "-", "*", "/", "%", "&", "|", "^", "<<", ">>", ">>>"];
const TRUTH: [&str; 8] = ["==", "!=", "<", "<=", ">", ">=", "&&", "||"];

/// Returns the text of one program. The same state of `rng` gives the same program.
pub(crate) fn generate(rng: &mut Rng, name: &str) -> String {
    let functions = rng.usize(1..=7);
    let names = (0..functions).map(|index| if index == 0 { name.to_owned() } else { format!("f{index}") });
    let signatures = names.map(|name| Signature { name, parameters: rng.usize(1..=4) }).collect();
    let mut generator = Generator { rng, text: String::new(), signatures, visible: Vec::new(), locals: 0, indent: 0 };
    generator.line(&format!("program {name} steps {STEPS} {{"));
    generator.indent = 1;
    for function in (0..functions).rev() {
        generator.function(function);
    }
    for _ in 0..generator.rng.usize(1..=4) {
        let arguments: Vec<_> =
            (0..generator.signatures[0].parameters).map(|_| generator.constant().to_string()).collect();
        generator.line(&format!("run {name}({});", arguments.join(", ")));
    }
    generator.text.push_str("}\n");
    generator.text
}

struct Signature {
    name: String,
    parameters: usize,
}

struct Generator<'a> {
    rng: &'a mut Rng,
    text: String,
    signatures: Vec<Signature>,
    /// The visible locals, and whether they may be assigned to. Loop counters may not.
    visible: Vec<(String, bool)>,
    /// The number of names that the function has used.
    locals: usize,
    indent: usize,
}

impl Generator<'_> {
    fn line(&mut self, line: &str) {
        let indent = 4 * self.indent;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "{:indent$}{line}", "");
    }

    fn function(&mut self, index: usize) {
        self.visible = (0..self.signatures[index].parameters).map(|number| (format!("p{number}"), true)).collect();
        self.locals = 0;
        let parameters: Vec<_> = self.visible.iter().map(|(name, _)| name.as_str()).collect();
        let head = format!("fn {}({}) {{", self.signatures[index].name, parameters.join(", "));
        self.line(&head);
        self.indent += 1;
        if self.rng.u8(..8) == 0 {
            self.recursion(index);
        }
        // Squaring makes small functions common and large ones present.
        let share = self.rng.f64();
        for _ in 0..1 + (share * share * 11.0) as usize {
            self.statement(index, 0);
        }
        // Every local is part of the result, so that a wrong one shows.
        let factors = (3..).step_by(2);
        let terms: Vec<_> =
            self.visible.iter().zip(factors).map(|((name, _), factor)| format!("{name} * {factor}")).collect();
        self.line(&format!("return {};", terms.join(" + ")));
        self.indent -= 1;
        self.line("}");
    }

    /// Generates a call of the function itself, a bounded number of times.
    fn recursion(&mut self, index: usize) {
        let mut arguments = vec!["(p0 & 7) - 1".to_owned()];
        arguments.extend((1..self.signatures[index].parameters).map(|_| self.expr(1)));
        let call = format!("{}({})", self.signatures[index].name, arguments.join(", "));
        let name = self.fresh();
        self.line(&format!("let {name} = 0;"));
        self.visible.push((name.clone(), true));
        self.line(&format!("if p0 & 7 {{ {name} = {call}; }}"));
    }

    fn statement(&mut self, function: usize, nesting: usize) {
        // After the first levels only statements without a block are left.
        match self.rng.u8(..if nesting < 2 { 12 } else { 8 }) {
            0..=2 => {
                let (name, value) = (self.fresh(), self.expr(2));
                self.line(&format!("let {name} = {value};"));
                self.visible.push((name, true));
            }
            3..=4 => self.assignment(),
            5 => {
                let (index, value) = (self.expr(1), self.expr(2));
                self.line(&format!("mem[{index}] = {value};"));
            }
            6..=7 => self.call(function),
            8..=9 => {
                let condition = self.expr(1);
                self.line(&format!("if {condition} {{"));
                self.block(function, nesting);
                if self.rng.bool() {
                    self.line("} else {");
                    self.block(function, nesting);
                }
                self.line("}");
            }
            _ => self.counted_loop(function, nesting),
        }
    }

    fn assignment(&mut self) {
        let targets: Vec<_> = self.visible.iter().filter(|(_, assignable)| *assignable).collect();
        // Parameters can be assigned to, and there is at least one.
        let target = targets[self.rng.usize(..targets.len())].0.clone();
        let value = self.expr(2);
        self.line(&format!("{target} = {value};"));
    }

    fn call(&mut self, function: usize) {
        if function + 1 == self.signatures.len() {
            return self.assignment();
        }
        let callee = self.rng.usize(function + 1..self.signatures.len());
        let arguments: Vec<_> = (0..self.signatures[callee].parameters).map(|_| self.expr(1)).collect();
        let name = self.fresh();
        self.line(&format!("let {name} = {}({});", self.signatures[callee].name, arguments.join(", ")));
        self.visible.push((name, true));
    }

    fn counted_loop(&mut self, function: usize, nesting: usize) {
        let counter = self.fresh();
        let rounds = self.rng.u8(1..=6);
        self.line(&format!("let {counter} = 0;"));
        self.visible.push((counter.clone(), false));
        self.line(&format!("while {counter} < {rounds} {{"));
        self.block(function, nesting);
        self.line(&format!("    {counter} = {counter} + 1;"));
        self.line("}");
    }

    fn block(&mut self, function: usize, nesting: usize) {
        let outside = self.visible.len();
        self.indent += 1;
        for _ in 0..self.rng.usize(1..=3) {
            self.statement(function, nesting + 1);
        }
        self.indent -= 1;
        self.visible.truncate(outside);
    }

    fn expr(&mut self, depth: usize) -> String {
        if depth == 0 || self.rng.u8(..4) == 0 {
            return self.leaf();
        }
        if self.rng.u8(..8) == 0 {
            let operator = ["-", "~", "!"][self.rng.usize(..3)];
            return format!("{operator}({})", self.expr(depth - 1));
        }
        // Few truth values, because too many of them would make every run give 0 or 1.
        let operators = if self.rng.u8(..6) == 0 { &TRUTH[..] } else { &ARITHMETIC[..] };
        let operator = operators[self.rng.usize(..operators.len())];
        format!("({} {operator} {})", self.expr(depth - 1), self.expr(depth - 1))
    }

    fn leaf(&mut self) -> String {
        match self.rng.u8(..10) {
            0..=5 => self.visible[self.rng.usize(..self.visible.len())].0.clone(),
            6 => format!("mem[{}]", self.visible[self.rng.usize(..self.visible.len())].0),
            _ => self.constant().to_string(),
        }
    }

    /// Returns a number, mostly a small one. Sometimes it is at the edge of a range, and sometimes
    /// any number.
    fn constant(&mut self) -> i64 {
        match self.rng.u8(..10) {
            0 => [i64::MIN, i64::MAX, -1, 0, 1, 63, 64, 1 << 32][self.rng.usize(..8)],
            1 => self.rng.i64(..),
            _ => self.rng.i64(-20..=100),
        }
    }

    fn fresh(&mut self) -> String {
        self.locals += 1;
        format!("v{}", self.locals)
    }
}
