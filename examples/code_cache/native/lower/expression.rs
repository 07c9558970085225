//! The translation of expressions to Cranelift's intermediate representation.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{BlockArg, FuncRef, InstBuilder, MemFlagsData, Value, types::I64};

use super::{Lowering, MEMORY, import};
use crate::language::ast::{Binary, Expr, Logic, Unary};
use crate::language::machine::MEMORY_WORDS;

impl Lowering<'_> {
    pub(super) fn value(&mut self, expr: &Expr) -> Value {
        match expr {
            Expr::Number(number) => self.number(*number),
            Expr::Local(name) => self.builder.use_var(self.locals[name.index]),
            Expr::Load(index) => {
                let word = self.word(index);
                self.builder.ins().load(I64, MemFlagsData::trusted(), word, MEMORY)
            }
            Expr::Call(name, arguments) => {
                let mut values = vec![self.machine];
                values.extend(arguments.iter().map(|argument| self.value(argument)));
                let callee = self.callee(name.index);
                let call = self.builder.ins().call(callee, &values);
                self.builder.inst_results(call)[0]
            }
            Expr::Unary(unary, operand) => {
                let value = self.value(operand);
                match unary {
                    Unary::Negate => self.builder.ins().ineg(value),
                    Unary::Complement => self.builder.ins().bnot(value),
                    Unary::Not => {
                        let zero = self.number(0);
                        self.compare(IntCC::Equal, value, zero)
                    }
                }
            }
            Expr::Binary(binary, left, right) => {
                let left = self.value(left);
                let right = self.value(right);
                self.binary(*binary, left, right)
            }
            Expr::Logic(logic, left, right) => self.logic(*logic, left, right),
        }
    }

    fn binary(&mut self, binary: Binary, left: Value, right: Value) -> Value {
        let condition = match binary {
            Binary::Divide | Binary::Remainder => return self.divide(binary, left, right),
            Binary::Add => return self.builder.ins().iadd(left, right),
            Binary::Subtract => return self.builder.ins().isub(left, right),
            Binary::Multiply => return self.builder.ins().imul(left, right),
            Binary::And => return self.builder.ins().band(left, right),
            Binary::Or => return self.builder.ins().bor(left, right),
            Binary::Xor => return self.builder.ins().bxor(left, right),
            // Cranelift's shifts mask their count, as the language does.
            Binary::ShiftLeft => return self.builder.ins().ishl(left, right),
            Binary::ShiftRight => return self.builder.ins().sshr(left, right),
            Binary::ShiftRightLogical => return self.builder.ins().ushr(left, right),
            Binary::Equal => IntCC::Equal,
            Binary::NotEqual => IntCC::NotEqual,
            Binary::Less => IntCC::SignedLessThan,
            Binary::LessOrEqual => IntCC::SignedLessThanOrEqual,
            Binary::Greater => IntCC::SignedGreaterThan,
            Binary::GreaterOrEqual => IntCC::SignedGreaterThanOrEqual,
        };
        self.compare(condition, left, right)
    }

    /// Emits a division as the language defines it. The machine's division may trap for two
    /// divisors, zero and minus one (which overflows), so these never reach it.
    fn divide(&mut self, binary: Binary, left: Value, right: Value) -> Value {
        let (zero, one) = (self.number(0), self.number(1));
        let next = self.builder.ins().iadd(right, one);
        let special = self.builder.ins().icmp(IntCC::UnsignedLessThanOrEqual, next, one);
        let divisor = self.builder.ins().select(special, one, right);
        let by_zero = self.builder.ins().icmp(IntCC::Equal, right, zero);
        if let Binary::Remainder = binary {
            let remainder = self.builder.ins().srem(left, divisor);
            return self.builder.ins().select(by_zero, left, remainder);
        }
        let quotient = self.builder.ins().sdiv(left, divisor);
        let negated = self.builder.ins().ineg(left);
        let otherwise = self.builder.ins().select(by_zero, zero, negated);
        self.builder.ins().select(special, otherwise, quotient)
    }

    fn logic(&mut self, logic: Logic, left: &Expr, right: &Expr) -> Value {
        let (other, after) = (self.builder.create_block(), self.builder.create_block());
        let result = self.builder.append_block_param(after, I64);
        let left = self.value(left);
        let decided = self.number(match logic {
            Logic::And => 0,
            Logic::Or => 1,
        });
        let decided = [BlockArg::Value(decided)];
        match logic {
            Logic::And => self.builder.ins().brif(left, other, &[], after, &decided),
            Logic::Or => self.builder.ins().brif(left, after, &decided, other, &[]),
        };
        self.begin(other);
        let right = self.value(right);
        let zero = self.number(0);
        let right = self.compare(IntCC::NotEqual, right, zero);
        self.builder.ins().jump(after, &[BlockArg::Value(right)]);
        self.begin(after);
        result
    }

    /// Emits a comparison, which gives 1 or 0.
    fn compare(&mut self, condition: IntCC, left: Value, right: Value) -> Value {
        let truth = self.builder.ins().icmp(condition, left, right);
        self.builder.ins().uextend(I64, truth)
    }

    pub(super) fn number(&mut self, number: i64) -> Value {
        self.builder.ins().iconst(I64, number)
    }

    /// Emits the offset of a word of `mem` by its index, without the offset of `mem` itself.
    pub(super) fn word(&mut self, index: &Expr) -> Value {
        let index = self.value(index);
        let (mask, shift) = (self.number(MEMORY_WORDS as i64 - 1), self.number(3));
        let masked = self.builder.ins().band(index, mask);
        let offset = self.builder.ins().ishl(masked, shift);
        self.builder.ins().iadd(self.machine, offset)
    }

    fn callee(&mut self, index: usize) -> FuncRef {
        match self.callees[index] {
            Some(callee) => callee,
            None => *self.callees[index].insert(import(&mut self.builder, self.isa, self.program, index)),
        }
    }
}
