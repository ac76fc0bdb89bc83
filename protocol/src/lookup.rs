//! An export that a client's option names, on its way through the server's look-up.

use crate::info::InfoType;
use crate::option::OptionCode;
use crate::text::Text;

/// An export that the server must find before the negotiation can go on.
#[derive(Debug, PartialEq, Eq)]
pub struct Lookup {
    pub(crate) name: Text,
    pub(crate) asked: Asked,
}

/// What a look-up is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The client looks around (INFO, LIST_META_CONTEXT, SET_META_CONTEXT); nothing is granted.
    Inspect,
    /// The client enters transmission when the export is found (GO, EXPORT_NAME): grant the
    /// attachment now.
    Attach,
}

impl Lookup {
    /// The name that the client gave; empty for the default export.
    pub fn name(&self) -> &Text {
        &self.name
    }

    /// What it is for.
    pub fn purpose(&self) -> Purpose {
        match self.asked {
            Asked::ExportName | Asked::Go(_) => Purpose::Attach,
            Asked::Info(_) | Asked::ListMetaContext(_) | Asked::SetMetaContext(_) => {
                Purpose::Inspect
            }
        }
    }

    pub(crate) fn option(&self) -> OptionCode {
        match self.asked {
            Asked::ExportName => OptionCode::ExportName,
            Asked::Info(_) => OptionCode::Info,
            Asked::Go(_) => OptionCode::Go,
            Asked::ListMetaContext(_) => OptionCode::ListMetaContext,
            Asked::SetMetaContext(_) => OptionCode::SetMetaContext,
        }
    }
}

/// What the client wants with the export, with the rest of its option.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    ExportName,
    Info(Vec<InfoType>),
    Go(Vec<InfoType>),
    ListMetaContext(Vec<Text>),
    SetMetaContext(Vec<Text>),
}
