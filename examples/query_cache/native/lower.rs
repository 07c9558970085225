//! The translation of a query to Cranelift's intermediate representation: one loop over the rows.
//!
//! ```text
//! entry: load the addresses of all columns
//! head (offset, sum): offset < end? --no--> after: one NaN for all NaNs, return the sum
//!    |yes
//! row: predicate --0--> next (the old sum)
//!    |not 0, or no predicate
//! counted: add the value --> next (the new sum): offset + 8 --> head
//! ```
//!
//! - An expression is lowered to an `f64` (`value`) or to an `i8` of 1 or 0 (`truth`), as its use
//!   needs.
//! - The result must have the interpreter's bits. So the rows are added in their order, and the
//!   minimum and maximum are a comparison and a `select`.
//! - `&&` and `||` have no branch: both sides are computed.
//! - Loads have no check. The caller passes columns of as many values as it says.

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::immediates::Ieee64;
use cranelift_codegen::ir::{
    AbiParam, Block, BlockArg, Function, InstBuilder, MemFlagsData, Signature, Value, types::F64, types::I8, types::I32,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};

use crate::query::{Arithmetic, Binary, COLUMNS, Compare, Expr, Logic, NAN, Query, Unary};

const VALUE_BYTES: i64 = size_of::<f64>() as i64;

/// Lowers a query to a function of type [`Function`](super::Function).
pub(super) fn lower(code: &mut Function, context: &mut FunctionBuilderContext, isa: &dyn TargetIsa, query: &Query) {
    let pointer = AbiParam::new(isa.pointer_type());
    code.signature = Signature::new(isa.default_call_conv());
    code.signature.params.extend([pointer, pointer]);
    code.signature.returns.push(AbiParam::new(F64));
    let mut builder = FunctionBuilder::new(code, context);
    let entry = builder.create_block();
    builder.append_block_params_for_function_params(entry);
    builder.switch_to_block(entry);
    builder.seal_block(entry);
    let (list, rows) = (builder.block_params(entry)[0], builder.block_params(entry)[1]);
    // All columns are loaded. The optimiser drops those that are not used.
    let pointer_bytes = isa.pointer_bytes() as i32;
    let columns = (0..COLUMNS.len() as i32)
        .map(|index| builder.ins().load(isa.pointer_type(), MemFlagsData::trusted(), list, index * pointer_bytes))
        .collect();
    let mut lowering = Lowering { builder, columns, offset: rows };
    lowering.rows(isa, query, rows);
    lowering.builder.finalize(isa.frontend_config());
}

struct Lowering<'a> {
    builder: FunctionBuilder<'a>,
    /// The address of each column.
    columns: Vec<Value>,
    /// The offset of the current row.
    offset: Value,
}

impl Lowering<'_> {
    /// Emits the loop, and the return of its sum.
    fn rows(&mut self, isa: &dyn TargetIsa, query: &Query, rows: Value) {
        let [head, row, counted, next, after] = [(); 5].map(|()| self.builder.create_block());
        self.offset = self.builder.append_block_param(head, isa.pointer_type());
        let sum = self.builder.append_block_param(head, F64);
        let new_sum = self.builder.append_block_param(next, F64);

        let bytes = self.builder.ins().iconst(isa.pointer_type(), VALUE_BYTES);
        let end = self.builder.ins().imul(rows, bytes);
        let (first, zero) = (self.builder.ins().iconst(isa.pointer_type(), 0), self.number(0.0));
        self.builder.ins().jump(head, &[BlockArg::Value(first), BlockArg::Value(zero)]);

        // Not sealed yet, because the end of the loop jumps here as well.
        self.builder.switch_to_block(head);
        let is_inside = self.builder.ins().icmp(IntCC::UnsignedLessThan, self.offset, end);
        self.builder.ins().brif(is_inside, row, &[], after, &[]);

        self.begin(row);
        match &query.predicate {
            None => self.builder.ins().jump(counted, &[]),
            Some(predicate) => {
                let is_counted = self.truth(predicate);
                self.builder.ins().brif(is_counted, counted, &[], next, &[BlockArg::Value(sum)])
            }
        };
        self.begin(counted);
        let value = self.value(&query.value);
        let added = self.builder.ins().fadd(sum, value);
        self.builder.ins().jump(next, &[BlockArg::Value(added)]);

        self.begin(next);
        let next_offset = self.builder.ins().iadd(self.offset, bytes);
        self.builder.ins().jump(head, &[BlockArg::Value(next_offset), BlockArg::Value(new_sum)]);
        self.builder.seal_block(head);

        self.begin(after);
        let nan = self.number(f64::from_bits(NAN));
        let is_nan = self.builder.ins().fcmp(FloatCC::Unordered, sum, sum);
        let result = self.builder.ins().select(is_nan, nan, sum);
        self.builder.ins().return_(&[result]);
    }

    /// Emits the `f64` value of an expression in the current row.
    fn value(&mut self, expr: &Expr) -> Value {
        match expr {
            Expr::Number(number) => self.number(*number),
            Expr::Column(index) => {
                let address = self.builder.ins().iadd(self.columns[*index], self.offset);
                self.builder.ins().load(F64, MemFlagsData::trusted(), address, 0)
            }
            Expr::Unary(unary, operand) => {
                let operand = self.value(operand);
                match unary {
                    Unary::Negate => self.builder.ins().fneg(operand),
                    Unary::Absolute => self.builder.ins().fabs(operand),
                    Unary::Root => self.builder.ins().sqrt(operand),
                }
            }
            Expr::Binary(Binary::Arithmetic(arithmetic), left, right) => {
                let (left, right) = (self.value(left), self.value(right));
                self.calculate(*arithmetic, left, right)
            }
            Expr::Not(_) | Expr::Binary(..) => {
                let truth = self.truth(expr);
                let truth = self.builder.ins().uextend(I32, truth);
                self.builder.ins().fcvt_from_uint(F64, truth)
            }
        }
    }

    fn calculate(&mut self, arithmetic: Arithmetic, left: Value, right: Value) -> Value {
        let comparison = match arithmetic {
            Arithmetic::Add => return self.builder.ins().fadd(left, right),
            Arithmetic::Subtract => return self.builder.ins().fsub(left, right),
            Arithmetic::Multiply => return self.builder.ins().fmul(left, right),
            Arithmetic::Divide => return self.builder.ins().fdiv(left, right),
            Arithmetic::Minimum => FloatCC::LessThan,
            Arithmetic::Maximum => FloatCC::GreaterThan,
        };
        let is_left = self.builder.ins().fcmp(comparison, left, right);
        self.builder.ins().select(is_left, left, right)
    }

    /// Emits whether an expression is not 0 in the current row, as an `i8` of 1 or 0.
    fn truth(&mut self, expr: &Expr) -> Value {
        match expr {
            Expr::Not(operand) => {
                let (truth, one) = (self.truth(operand), self.builder.ins().iconst(I8, 1));
                self.builder.ins().bxor(truth, one)
            }
            Expr::Binary(Binary::Compare(compare), left, right) => {
                let (left, right) = (self.value(left), self.value(right));
                self.builder.ins().fcmp(condition(*compare), left, right)
            }
            Expr::Binary(Binary::Logic(logic), left, right) => {
                let (left, right) = (self.truth(left), self.truth(right));
                match logic {
                    Logic::And => self.builder.ins().band(left, right),
                    Logic::Or => self.builder.ins().bor(left, right),
                }
            }
            _ => {
                let (value, zero) = (self.value(expr), self.number(0.0));
                self.builder.ins().fcmp(FloatCC::NotEqual, value, zero)
            }
        }
    }

    fn number(&mut self, number: f64) -> Value {
        self.builder.ins().f64const(Ieee64::with_bits(number.to_bits()))
    }

    /// Continues in a block to which nothing jumps from now on.
    fn begin(&mut self, block: Block) {
        self.builder.switch_to_block(block);
        self.builder.seal_block(block);
    }
}

/// Returns Cranelift's condition. With a NaN only the last one is true.
fn condition(compare: Compare) -> FloatCC {
    match compare {
        Compare::Less => FloatCC::LessThan,
        Compare::LessOrEqual => FloatCC::LessThanOrEqual,
        Compare::Greater => FloatCC::GreaterThan,
        Compare::GreaterOrEqual => FloatCC::GreaterThanOrEqual,
        Compare::Equal => FloatCC::Equal,
        Compare::NotEqual => FloatCC::NotEqual,
    }
}
