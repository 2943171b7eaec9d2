//! What the variables of a text stand for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Text;
use crate::{
    Cause, CheckId, Flow, Hook, NetnsName, NodeName, ObjectRef, Place, PolicyField, Protocol, RuleRef,
};

/// What a variable stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Arg {
    /// Nothing: the text does without.
    Nothing,
    /// Whether something is so.
    Flag(bool),
    /// A number.
    Number(u64),
    /// A name, an address, a command: the same in all languages.
    Name(String),
    /// A text within the text.
    Text(Box<Text>),
    /// Several of them.
    List(Vec<Arg>),
    /// What another version has.
    Other(Value),
}

impl From<Text> for Arg {
    fn from(text: Text) -> Self {
        Self::Text(Box::new(text))
    }
}

impl From<&Text> for Arg {
    fn from(text: &Text) -> Self {
        text.clone().into()
    }
}

impl From<&str> for Arg {
    fn from(name: &str) -> Self {
        Self::Name(name.to_owned())
    }
}

impl From<String> for Arg {
    fn from(name: String) -> Self {
        Self::Name(name)
    }
}

impl From<bool> for Arg {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl<T: Into<Arg>> From<Option<T>> for Arg {
    fn from(arg: Option<T>) -> Self {
        arg.map_or(Self::Nothing, Into::into)
    }
}

impl<T: Into<Arg>> From<Vec<T>> for Arg {
    fn from(args: Vec<T>) -> Self {
        Self::List(args.into_iter().map(Into::into).collect())
    }
}

impl<T: Clone + Into<Arg>> From<&[T]> for Arg {
    fn from(args: &[T]) -> Self {
        args.to_vec().into()
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl From<$number> for Arg {
            fn from(number: $number) -> Self {
                Self::Number(number as u64)
            }
        }
    )*};
}

numbers!(u8, u16, u32, u64, usize);

macro_rules! names {
    ($($name:ty),*) => {$(
        impl From<$name> for Arg {
            fn from(name: $name) -> Self {
                Self::Name(name.to_string())
            }
        }

        impl From<&$name> for Arg {
            fn from(name: &$name) -> Self {
                Self::Name(name.to_string())
            }
        }
    )*};
}

names!(
    Arc<str>,
    Cause,
    CheckId,
    Flow,
    Hook,
    IpAddr,
    NetnsName,
    NodeName,
    ObjectRef,
    Place,
    PolicyField,
    Protocol,
    RuleRef,
    SocketAddr
);

impl From<&String> for Arg {
    fn from(name: &String) -> Self {
        Self::Name(name.clone())
    }
}
