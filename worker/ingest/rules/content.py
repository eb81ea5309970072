"""The table of WAProto's content types: the kind of each field of `Message`, and where its text and file are.

Decides for every field that a group message can have. `docs/kinds.md` is the same table in words. A test walks the
proto and fails for a field that a Baileys update adds, until it is decided here. Looks only at names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MediaType = Literal["image", "video", "audio", "document"]  # selects the HKDF info string; docs/whatsapp.md, "Media"
Discarded = Literal["key_share", "history", "protocol"]

UNKNOWN = "unknown"
UNDECRYPTABLE = "undecryptable"
VIEW_ONCE = "view_once"
BOT_REPLY = "bot_reply"
SYSTEM = "system"
CONTACT_KINDS = frozenset({"contact", "contacts"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """What one field of `Message` means.

    Attributes:
        kind: `messages.kind`, before `classify` refines it (a video may be a gif).
        text: groups of paths; the first group with any text wins, and its texts are joined by newlines.
        media: if the field itself is a file: its key type.
        within: paths to files inside (header pictures); the first one present wins.
        target: path to the key of the message that this one is about.
        sealed: for content that the target's secret decrypts: paths of ciphertext and iv, and the key's use.
    """

    kind: str
    text: tuple[tuple[str, ...], ...] = ()
    media: MediaType | None = None
    within: tuple[str, ...] = ()
    target: str | None = None
    sealed: tuple[str, str] | None = None

    @property
    def may_have_caption(self) -> bool:
        """Whether the field is a file that can have a caption: without one its text is empty, not unreadable."""
        return self.media is not None and self.text != ()


def _first(*paths: str) -> tuple[tuple[str, ...], ...]:
    return tuple((path,) for path in paths)


def _lines(*paths: str) -> tuple[tuple[str, ...], ...]:
    return (paths,)


# Files, wherever they appear: the field's name determines the key type.
MEDIA_FIELDS: dict[str, MediaType] = {
    "imageMessage": "image",
    "stickerMessage": "image",
    "videoMessage": "video",
    "ptvMessage": "video",
    "audioMessage": "audio",
    "documentMessage": "document",
    "productImage": "image",
    "catalogImage": "image",
}

# In order of precedence: if a message has several contents (WhatsApp's clients never send that), the first one wins.
CONTENT: dict[str, Rule] = {
    # Text and files
    "extendedTextMessage": Rule(kind="text", text=_first("text")),
    "imageMessage": Rule(kind="image", text=_first("caption"), media="image"),
    "videoMessage": Rule(kind="video", text=_first("caption"), media="video"),
    "ptvMessage": Rule(kind="ptv", text=_first("caption"), media="video"),
    "audioMessage": Rule(kind="audio", media="audio"),
    "documentMessage": Rule(kind="document", text=_first("caption"), media="document"),
    "stickerMessage": Rule(kind="sticker", media="image"),
    "stickerPackMessage": Rule(kind="sticker_pack", text=_first("caption", "name")),
    "albumMessage": Rule(kind="album"),
    # Places and people
    "locationMessage": Rule(kind="location", text=(("name", "address", "comment"),)),
    "liveLocationMessage": Rule(kind="live_location", text=_first("caption")),
    "contactMessage": Rule(kind="contact", text=_first("displayName")),
    "contactsArrayMessage": Rule(kind="contacts", text=_first("displayName", "contacts.*.displayName")),
    # Polls, events, calls
    "pollCreationMessage": Rule(kind="poll", text=_lines("name", "options.*.optionName")),
    "pollCreationMessageV2": Rule(kind="poll", text=_lines("name", "options.*.optionName")),
    "pollCreationMessageV3": Rule(kind="poll", text=_lines("name", "options.*.optionName")),
    "pollCreationMessageV5": Rule(kind="poll", text=_lines("name", "options.*.optionName")),
    "pollUpdateMessage": Rule(kind="poll_vote", target="pollCreationMessageKey", sealed=("vote", "Poll Vote")),
    "pollResultSnapshotMessage": Rule(kind="poll_result", text=_lines("name", "pollVotes.*.optionName")),
    "pollResultSnapshotMessageV3": Rule(kind="poll_result", text=_lines("name", "pollVotes.*.optionName")),
    "eventMessage": Rule(kind="event", text=_lines("name", "description", "location.name")),
    "encEventResponseMessage": Rule(
        kind="event_response", target="eventCreationMessageKey", sealed=("", "Event Response")
    ),
    "call": Rule(kind="call"),
    "callLogMesssage": Rule(kind="call"),  # three s: the proto's own spelling
    "bcallMessage": Rule(kind="call", text=_first("caption")),
    "scheduledCallCreationMessage": Rule(kind="call", text=_first("title")),
    "scheduledCallEditMessage": Rule(kind="call", target="key"),
    # Business
    "productMessage": Rule(
        kind="product",
        text=_lines("product.title", "product.description", "catalog.title", "body"),
        within=("product.productImage", "catalog.catalogImage"),
    ),
    "orderMessage": Rule(kind="order", text=_lines("orderTitle", "message")),
    "invoiceMessage": Rule(kind="payment", text=_first("note")),
    "sendPaymentMessage": Rule(
        kind="payment", text=_first("noteMessage.extendedTextMessage.text", "noteMessage.conversation")
    ),
    "requestPaymentMessage": Rule(
        kind="payment", text=_first("noteMessage.extendedTextMessage.text", "noteMessage.conversation")
    ),
    "declinePaymentRequestMessage": Rule(kind="payment", target="key"),
    "cancelPaymentRequestMessage": Rule(kind="payment", target="key"),
    "paymentInviteMessage": Rule(kind="payment"),
    # Buttons, lists, forms, and what was chosen
    "buttonsMessage": Rule(
        kind="buttons",
        text=_lines("text", "contentText", "footerText"),
        within=("imageMessage", "videoMessage", "documentMessage"),
    ),
    "buttonsResponseMessage": Rule(kind="buttons_reply", text=_first("selectedDisplayText", "selectedButtonId")),
    "listMessage": Rule(kind="list", text=_lines("title", "description", "footerText")),
    "listResponseMessage": Rule(kind="list_reply", text=_lines("title", "description")),
    "templateMessage": Rule(
        kind="template",
        text=(
            (
                "hydratedTemplate.hydratedTitleText",
                "hydratedTemplate.hydratedContentText",
                "hydratedTemplate.hydratedFooterText",
            ),
            (
                "hydratedFourRowTemplate.hydratedTitleText",
                "hydratedFourRowTemplate.hydratedContentText",
                "hydratedFourRowTemplate.hydratedFooterText",
            ),
            (
                "interactiveMessageTemplate.header.title",
                "interactiveMessageTemplate.body.text",
                "interactiveMessageTemplate.footer.text",
            ),
        ),
        within=tuple(
            f"{place}.{field}"
            for place in (
                "hydratedTemplate",
                "hydratedFourRowTemplate",
                "fourRowTemplate",
                "interactiveMessageTemplate.header",
            )
            for field in ("imageMessage", "videoMessage", "documentMessage")
        ),
    ),
    "templateButtonReplyMessage": Rule(kind="template_reply", text=_first("selectedDisplayText", "selectedId")),
    "highlyStructuredMessage": Rule(
        kind="template", text=_first("hydratedHsm.hydratedTemplate.hydratedContentText", "params.*")
    ),
    "interactiveMessage": Rule(
        kind="interactive",
        text=_lines("header.title", "body.text", "footer.text"),
        within=("header.imageMessage", "header.videoMessage", "header.documentMessage", "footer.audioMessage"),
    ),
    "interactiveResponseMessage": Rule(
        kind="interactive_reply", text=_first("body.text", "nativeFlowResponseMessage.name")
    ),
    "richResponseMessage": Rule(kind=BOT_REPLY, text=_lines("submessages.*.messageText")),
    # Invitations
    "groupInviteMessage": Rule(kind="group_invite", text=_lines("groupName", "caption")),
    "newsletterAdminInviteMessage": Rule(kind="newsletter_invite", text=_lines("newsletterName", "caption")),
    "newsletterFollowerInviteMessageV2": Rule(kind="newsletter_invite", text=_lines("newsletterName", "caption")),
    # About another message
    "reactionMessage": Rule(kind="reaction", text=_first("text"), target="key"),
    "encReactionMessage": Rule(kind="reaction", target="targetMessageKey", sealed=("", "Enc Reaction")),
    "commentMessage": Rule(kind="comment", target="targetMessageKey"),
    "encCommentMessage": Rule(kind="comment", target="targetMessageKey", sealed=("", "Enc Comment")),
    "pinInChatMessage": Rule(kind="pin", target="key"),
    "keepInChatMessage": Rule(kind="keep", target="key"),
    "secretEncryptedMessage": Rule(kind="edit", target="targetMessageKey"),  # `classify` looks at its secretEncType
    # Status posts, questions, notices: rare in groups, kept when they come
    "statusNotificationMessage": Rule(kind="status", target="originalMessageKey"),
    "statusQuestionAnswerMessage": Rule(kind="status", text=_first("text"), target="key"),
    "statusQuotedMessage": Rule(kind="status", text=_first("text"), target="originalStatusId"),
    "statusStickerInteractionMessage": Rule(kind="status", target="key"),
    "questionResponseMessage": Rule(kind="answer", text=_first("text"), target="key"),
    "messageHistoryBundle": Rule(
        kind="history_notice"
    ),  # the notice is a row; the history in its file is never fetched
    "messageHistoryNotice": Rule(kind="history_notice"),
    "placeholderMessage": Rule(kind="placeholder"),  # "open this on your phone"
    "requestPhoneNumberMessage": Rule(kind=SYSTEM),
    "chat": Rule(kind=UNKNOWN),  # obsolete and undocumented
}

# `{message}` around the content. Every such wrapper is removed, listed or not; the list only records that each field
# of the proto was reviewed.
WRAPPERS = frozenset(
    {
        "deviceSentMessage",
        "ephemeralMessage",
        "viewOnceMessage",
        "viewOnceMessageV2",
        "viewOnceMessageV2Extension",
        "documentWithCaptionMessage",
        "editedMessage",
        "groupMentionedMessage",
        "botInvokeMessage",
        "botTaskMessage",
        "botForwardedMessage",
        "lottieStickerMessage",
        "eventCoverImage",
        "pollCreationOptionImageMessage",
        "pollCreationMessageV4",
        "associatedChildMessage",
        "statusMentionMessage",
        "groupStatusMentionMessage",
        "groupStatusMessage",
        "groupStatusMessageV2",
        "statusAddYours",
        "limitSharingMessage",
        "questionMessage",
        "questionReplyMessage",
    }
)
VIEW_ONCE_WRAPPERS = frozenset({"viewOnceMessage", "viewOnceMessageV2", "viewOnceMessageV2Extension"})
VIEW_ONCE_KINDS = frozenset(
    {"image", "video", "gif", "ptv", "audio", "voice"}
)  # bots wrap buttons in viewOnce too: those stay

# Fields beside a content, or without one; `classify` reads the three meaningful ones by name.
ENVELOPE = frozenset({"messageContextInfo"})
KEY_SHARES = frozenset({"senderKeyDistributionMessage", "fastRatchetKeySenderKeyDistributionMessage"})
SYNC_NOISE = frozenset({"stickerSyncRmrMessage"})
READ_BY_NAME = frozenset({"conversation", "protocolMessage"})

REVOKE = "REVOKE"
EDIT = "MESSAGE_EDIT"
# protocolMessage.type → the kind of the row, or why there is none.
PROTOCOL_ROWS: dict[str, str] = {
    REVOKE: "revoke",
    EDIT: "edit",
    "EPHEMERAL_SETTING": SYSTEM,
    "SHARE_PHONE_NUMBER": SYSTEM,
    "REMINDER_MESSAGE": SYSTEM,
    "STATUS_MENTION_MESSAGE": SYSTEM,
    "LIMIT_SHARING": SYSTEM,
    "GROUP_MEMBER_LABEL_CHANGE": SYSTEM,
}
PROTOCOL_NOISE: dict[str, Discarded] = {
    "HISTORY_SYNC_NOTIFICATION": "history",
    "APP_STATE_SYNC_KEY_SHARE": "key_share",
    "EPHEMERAL_SYNC_RESPONSE": "protocol",
    "APP_STATE_SYNC_KEY_REQUEST": "protocol",
    "MSG_FANOUT_BACKFILL_REQUEST": "protocol",
    "INITIAL_SECURITY_NOTIFICATION_SETTING_SYNC": "protocol",
    "APP_STATE_FATAL_EXCEPTION_NOTIFICATION": "protocol",
    "PEER_DATA_OPERATION_REQUEST_MESSAGE": "protocol",
    "PEER_DATA_OPERATION_REQUEST_RESPONSE_MESSAGE": "protocol",
    "REQUEST_WELCOME_MESSAGE": "protocol",
    "BOT_FEEDBACK_MESSAGE": "protocol",
    "MEDIA_NOTIFY_MESSAGE": "protocol",
    "CLOUD_API_THREAD_CONTROL_NOTIFICATION": "protocol",
    "LID_MIGRATION_MAPPING_SYNC": "protocol",
    "BOT_MEMU_ONBOARDING_MESSAGE": "protocol",
    "STOP_GENERATION_MESSAGE": "protocol",
    "AI_PSI_METADATA": "protocol",
    "AI_QUERY_FANOUT": "protocol",
}
