"""Every content type of a group message: its kind, its text, its file."""

from __future__ import annotations

from typing import Any

import pytest

from testkit.stanzas import make_file
from worker.ingest.rules.classify import MAX_WRAPPERS, Content, classify, unwrap
from worker.ingest.rules.content import VIEW_ONCE_WRAPPERS, WRAPPERS

TARGET = {"remoteJid": "120363000000000001@g.us", "id": "3EB0BB", "participant": "1002@lid"}
HEADER = {"hasMediaAttachment": True, "imageMessage": make_file()}

# message → kind, text, name of the field that holds the file
KINDS: dict[str, tuple[dict[str, Any], str, str | None, str | None]] = {
    "plain text": ({"conversation": "hi"}, "text", "hi", None),
    "text with a link preview": (
        {"extendedTextMessage": {"text": "see https://a.b", "title": "A"}},
        "text",
        "see https://a.b",
        None,
    ),
    "an image": ({"imageMessage": make_file(caption="look")}, "image", "look", "imageMessage"),
    "an image without a caption": ({"imageMessage": make_file()}, "image", None, "imageMessage"),
    "a video": ({"videoMessage": make_file(caption="see", seconds=3)}, "video", "see", "videoMessage"),
    "a gif is a video that says so": ({"videoMessage": make_file(gifPlayback=True)}, "gif", None, "videoMessage"),
    "a round video": ({"ptvMessage": make_file(seconds=3)}, "ptv", None, "ptvMessage"),
    "music": ({"audioMessage": make_file(ptt=False)}, "audio", None, "audioMessage"),
    "a voice note is audio by push-to-talk": ({"audioMessage": make_file(ptt=True)}, "voice", None, "audioMessage"),
    "a document": ({"documentMessage": make_file(fileName="a.pdf")}, "document", None, "documentMessage"),
    "a document with a caption comes wrapped": (
        {"documentWithCaptionMessage": {"message": {"documentMessage": make_file(caption="the list")}}},
        "document",
        "the list",
        "documentMessage",
    ),
    "a sticker": ({"stickerMessage": make_file(isAnimated=True)}, "sticker", None, "stickerMessage"),
    "a lottie sticker comes wrapped": (
        {"lottieStickerMessage": {"message": {"stickerMessage": make_file(isLottie=True)}}},
        "sticker",
        None,
        "stickerMessage",
    ),
    "a sticker pack has no file that we fetch": (
        {"stickerPackMessage": {"name": "Cats", **make_file()}},
        "sticker_pack",
        "Cats",
        None,
    ),
    "an album announces its children": ({"albumMessage": {"expectedImageCount": 3}}, "album", None, None),
    "a place": (
        {"locationMessage": {"degreesLatitude": 1.5, "name": "Harbour", "address": "Quay 3"}},
        "location",
        "Harbour\nQuay 3",
        None,
    ),
    "a place without a name": ({"locationMessage": {"degreesLatitude": 1.5}}, "location", None, None),
    "a place that moves, old form": ({"locationMessage": {"isLive": True}}, "live_location", None, None),
    "a place that moves": ({"liveLocationMessage": {"caption": "here"}}, "live_location", "here", None),
    "a contact": ({"contactMessage": {"displayName": "Bob", "vcard": "BEGIN:VCARD"}}, "contact", "Bob", None),
    "contacts under one name": (
        {"contactsArrayMessage": {"displayName": "2 contacts", "contacts": []}},
        "contacts",
        "2 contacts",
        None,
    ),
    "contacts by their names": (
        {"contactsArrayMessage": {"contacts": [{"displayName": "Bob"}, {"displayName": "Eve"}]}},
        "contacts",
        "Bob\nEve",
        None,
    ),
    "a poll": (
        {"pollCreationMessage": {"name": "When?", "options": [{"optionName": "Mon"}, {"optionName": "Tue"}]}},
        "poll",
        "When?\nMon\nTue",
        None,
    ),
    "a poll, version 2": ({"pollCreationMessageV2": {"name": "When?"}}, "poll", "When?", None),
    "a poll, version 3": ({"pollCreationMessageV3": {"name": "When?"}}, "poll", "When?", None),
    "a poll, version 4, comes wrapped": (
        {"pollCreationMessageV4": {"message": {"pollCreationMessageV3": {"name": "When?"}}}},
        "poll",
        "When?",
        None,
    ),
    "a poll, version 5": ({"pollCreationMessageV5": {"name": "When?"}}, "poll", "When?", None),
    "a vote": (
        {"pollUpdateMessage": {"pollCreationMessageKey": TARGET, "vote": {"encPayload": "AA=="}}},
        "poll_vote",
        None,
        None,
    ),
    "a poll's result": (
        {"pollResultSnapshotMessage": {"name": "When?", "pollVotes": [{"optionName": "Mon"}]}},
        "poll_result",
        "When?\nMon",
        None,
    ),
    "a poll's result, version 3": ({"pollResultSnapshotMessageV3": {"name": "When?"}}, "poll_result", "When?", None),
    "an event": (
        {"eventMessage": {"name": "Feast", "description": "bring food", "location": {"name": "Barn"}}},
        "event",
        "Feast\nbring food\nBarn",
        None,
    ),
    "an answer to an event": (
        {"encEventResponseMessage": {"eventCreationMessageKey": TARGET}},
        "event_response",
        None,
        None,
    ),
    "an event's cover is an image": (
        {"eventCoverImage": {"message": {"imageMessage": make_file()}}},
        "image",
        None,
        "imageMessage",
    ),
    "a call that rings": ({"call": {"callKey": "AA=="}}, "call", None, None),
    "a call that ended": ({"callLogMesssage": {"isVideo": True, "callOutcome": "MISSED"}}, "call", None, None),
    "a call of many": ({"bcallMessage": {"caption": "all hands"}}, "call", "all hands", None),
    "a planned call": ({"scheduledCallCreationMessage": {"title": "Review"}}, "call", "Review", None),
    "a planned call, cancelled": (
        {"scheduledCallEditMessage": {"key": TARGET, "editType": "CANCEL"}},
        "call",
        None,
        None,
    ),
    "a product": (
        {"productMessage": {"product": {"title": "Crate", "description": "oak", "productImage": make_file()}}},
        "product",
        "Crate\noak",
        "imageMessage",
    ),
    "a catalogue": (
        {"productMessage": {"catalog": {"title": "All", "catalogImage": make_file()}}},
        "product",
        "All",
        "imageMessage",
    ),
    "an order": ({"orderMessage": {"orderTitle": "Order 7", "message": "please"}}, "order", "Order 7\nplease", None),
    "an invoice": ({"invoiceMessage": {"note": "for May"}}, "payment", "for May", None),
    "money sent, with a note": (
        {"sendPaymentMessage": {"noteMessage": {"conversation": "rent"}}},
        "payment",
        "rent",
        None,
    ),
    "money asked for": (
        {"requestPaymentMessage": {"noteMessage": {"extendedTextMessage": {"text": "rent"}}}},
        "payment",
        "rent",
        None,
    ),
    "money declined": ({"declinePaymentRequestMessage": {"key": TARGET}}, "payment", None, None),
    "money no longer asked for": ({"cancelPaymentRequestMessage": {"key": TARGET}}, "payment", None, None),
    "an invitation to pay": ({"paymentInviteMessage": {"serviceType": "UPI"}}, "payment", None, None),
    "buttons": ({"buttonsMessage": {"contentText": "Go?", "footerText": "today"}}, "buttons", "Go?\ntoday", None),
    "buttons under a picture": (
        {"buttonsMessage": {"contentText": "Go?", "imageMessage": make_file()}},
        "buttons",
        "Go?",
        "imageMessage",
    ),
    "a button pressed": (
        {"buttonsResponseMessage": {"selectedButtonId": "1", "selectedDisplayText": "Yes"}},
        "buttons_reply",
        "Yes",
        None,
    ),
    "a button without a label": ({"buttonsResponseMessage": {"selectedButtonId": "1"}}, "buttons_reply", "1", None),
    "a list": ({"listMessage": {"title": "Menu", "description": "pick"}}, "list", "Menu\npick", None),
    "an item picked": (
        {"listResponseMessage": {"title": "Soup", "description": "hot"}},
        "list_reply",
        "Soup\nhot",
        None,
    ),
    "a template": (
        {"templateMessage": {"hydratedTemplate": {"hydratedContentText": "Your code"}}},
        "template",
        "Your code",
        None,
    ),
    "a template of four rows": (
        {"templateMessage": {"hydratedFourRowTemplate": {"hydratedContentText": "Hi", "documentMessage": make_file()}}},
        "template",
        "Hi",
        "documentMessage",
    ),
    "a template made of an interactive message": (
        {"templateMessage": {"interactiveMessageTemplate": {"header": HEADER, "body": {"text": "b"}}}},
        "template",
        "b",
        "imageMessage",
    ),
    "a template's button pressed": (
        {"templateButtonReplyMessage": {"selectedDisplayText": "Ok"}},
        "template_reply",
        "Ok",
        None,
    ),
    "a highly structured message": ({"highlyStructuredMessage": {"params": ["a", "b"]}}, "template", "a\nb", None),
    "an interactive message": (
        {"interactiveMessage": {"header": {"title": "T", **HEADER}, "body": {"text": "B"}, "footer": {"text": "F"}}},
        "interactive",
        "T\nB\nF",
        "imageMessage",
    ),
    "an interactive answer": (
        {"interactiveResponseMessage": {"body": {"text": "Done"}}},
        "interactive_reply",
        "Done",
        None,
    ),
    "a form sent back": (
        {"interactiveResponseMessage": {"nativeFlowResponseMessage": {"name": "flow"}}},
        "interactive_reply",
        "flow",
        None,
    ),
    "a bot's rich answer": ({"richResponseMessage": {"submessages": [{"messageText": "42"}]}}, "bot_reply", "42", None),
    "an invitation to a group": (
        {"groupInviteMessage": {"groupName": "Crew", "caption": "join"}},
        "group_invite",
        "Crew\njoin",
        None,
    ),
    "an invitation to run a channel": (
        {"newsletterAdminInviteMessage": {"newsletterName": "News"}},
        "newsletter_invite",
        "News",
        None,
    ),
    "an invitation to a channel": (
        {"newsletterFollowerInviteMessageV2": {"newsletterName": "News"}},
        "newsletter_invite",
        "News",
        None,
    ),
    "a reaction": ({"reactionMessage": {"key": TARGET, "text": "👍"}}, "reaction", "👍", None),
    "a reaction taken back": ({"reactionMessage": {"key": TARGET, "text": ""}}, "reaction", "", None),
    "a reaction that is encrypted": ({"encReactionMessage": {"targetMessageKey": TARGET}}, "reaction", None, None),
    "a comment": (
        {"commentMessage": {"message": {"conversation": "me too"}, "targetMessageKey": TARGET}},
        "comment",
        "me too",
        None,
    ),
    "a picture as a comment": (
        {"commentMessage": {"message": {"imageMessage": make_file(caption="c")}, "targetMessageKey": TARGET}},
        "comment",
        "c",
        "imageMessage",
    ),
    "a comment that is encrypted": ({"encCommentMessage": {"targetMessageKey": TARGET}}, "comment", None, None),
    "a pin": ({"pinInChatMessage": {"key": TARGET, "type": "PIN_FOR_ALL"}}, "pin", None, None),
    "a keep": ({"keepInChatMessage": {"key": TARGET, "keepType": "KEEP_FOR_ALL"}}, "keep", None, None),
    "an edit, bare": (
        {"protocolMessage": {"type": "MESSAGE_EDIT", "key": TARGET, "editedMessage": {"conversation": "new"}}},
        "edit",
        "new",
        None,
    ),
    "an edit, wrapped": (
        {
            "editedMessage": {
                "message": {
                    "protocolMessage": {
                        "type": "MESSAGE_EDIT",
                        "key": TARGET,
                        "editedMessage": {"extendedTextMessage": {"text": "new"}},
                    }
                }
            }
        },
        "edit",
        "new",
        None,
    ),
    "an edited caption brings no file again": (
        {
            "protocolMessage": {
                "type": "MESSAGE_EDIT",
                "key": TARGET,
                "editedMessage": {"imageMessage": make_file(caption="new")},
            }
        },
        "edit",
        "new",
        None,
    ),
    "an edit that is encrypted": (
        {"secretEncryptedMessage": {"targetMessageKey": TARGET, "secretEncType": "MESSAGE_EDIT"}},
        "edit",
        None,
        None,
    ),
    "a secret of another type": (
        {"secretEncryptedMessage": {"targetMessageKey": TARGET, "secretEncType": "UNKNOWN"}},
        "unknown",
        None,
        None,
    ),
    "a revoke": ({"protocolMessage": {"type": "REVOKE", "key": TARGET}}, "revoke", None, None),
    "a revoke that leaves out its type, which is protobuf's 0": (
        {"protocolMessage": {"key": TARGET}},
        "revoke",
        None,
        None,
    ),
    "a change of the disappearing time": (
        {"protocolMessage": {"type": "EPHEMERAL_SETTING", "ephemeralExpiration": 86400}},
        "system",
        "New messages disappear after 24 hours.",
        None,
    ),
    "a member's new label": ({"protocolMessage": {"type": "GROUP_MEMBER_LABEL_CHANGE"}}, "system", None, None),
    "a group was mentioned in a status": (
        {"groupStatusMentionMessage": {"message": {"protocolMessage": {"type": "STATUS_MENTION_MESSAGE"}}}},
        "system",
        None,
        None,
    ),
    "forwarding was limited": (
        {"limitSharingMessage": {"message": {"protocolMessage": {"type": "LIMIT_SHARING"}}}},
        "system",
        None,
        None,
    ),
    "a wish for a phone number": ({"requestPhoneNumberMessage": {}}, "system", None, None),
    "a protocol message of a type to come": ({"protocolMessage": {"type": 99}}, "unknown", None, None),
    "a protocol message with a name to come": (
        {"protocolMessage": {"type": "NEW_THING", "key": TARGET}},
        "unknown",
        None,
        None,
    ),
    "a status notice": ({"statusNotificationMessage": {"type": "STATUS_RESHARE"}}, "status", None, None),
    "an answer to a status question": (
        {"statusQuestionAnswerMessage": {"key": TARGET, "text": "a"}},
        "status",
        "a",
        None,
    ),
    "a status quoted": ({"statusQuotedMessage": {"text": "q"}}, "status", "q", None),
    "a sticker on a status": ({"statusStickerInteractionMessage": {"key": TARGET}}, "status", None, None),
    "an answer to a question": ({"questionResponseMessage": {"key": TARGET, "text": "a"}}, "answer", "a", None),
    "a history handed to a newcomer: the notice, not the file": (
        {"messageHistoryBundle": make_file()},
        "history_notice",
        None,
        None,
    ),
    "a notice of that": ({"messageHistoryNotice": {}}, "history_notice", None, None),
    "what only the phone may show": (
        {"placeholderMessage": {"type": "MASK_LINKED_DEVICES"}},
        "placeholder",
        None,
        None,
    ),
    "an obsolete field": ({"chat": {"displayName": "x"}}, "unknown", None, None),
    "a field of a proto to come": ({"hologramMessage": {"text": "x"}}, "unknown", None, None),
    "nothing that this proto knows": ({}, "unknown", None, None),
    "nothing but the envelope": ({"messageContextInfo": {"messageSecret": "AA=="}}, "unknown", None, None),
    "text beside a key share": ({"senderKeyDistributionMessage": {}, "conversation": "hi"}, "text", "hi", None),
    "an empty text": ({"conversation": ""}, "text", "", None),
    "a content whose text is empty beside another": (
        {"conversation": "", "imageMessage": make_file()},
        "image",
        None,
        "imageMessage",
    ),
    "a view-once picture keeps its secret": (
        {"viewOnceMessageV2": {"message": {"imageMessage": make_file(caption="s")}}},
        "view_once",
        None,
        None,
    ),
    "a view-once voice note": (
        {"viewOnceMessageV2Extension": {"message": {"audioMessage": make_file(ptt=True)}}},
        "view_once",
        None,
        None,
    ),
    "a view-once by its flag": ({"imageMessage": make_file(viewOnce=True, caption="s")}, "view_once", None, None),
    "bots wrap buttons in view-once": (
        {"viewOnceMessage": {"message": {"buttonsMessage": {"contentText": "Go?"}}}},
        "buttons",
        "Go?",
        None,
    ),
    "the owner's own, not yet unwrapped": (
        {"deviceSentMessage": {"message": {"conversation": "mine"}}},
        "text",
        "mine",
        None,
    ),
    "ephemeral, then a caption's wrapper": (
        {
            "ephemeralMessage": {
                "message": {"documentWithCaptionMessage": {"message": {"documentMessage": make_file(caption="c")}}}
            }
        },
        "document",
        "c",
        "documentMessage",
    ),
}


@pytest.mark.parametrize(("message", "kind", "text", "file"), KINDS.values(), ids=KINDS.keys())
def test_a_content_has_its_kind_text_and_file(
    message: dict[str, Any], kind: str, text: str | None, file: str | None
) -> None:
    content = classify(message)
    assert isinstance(content, Content)
    assert (content.kind, content.text, content.media and content.media.field) == (kind, text, file)


@pytest.mark.parametrize("wrapper", [*sorted(WRAPPERS - VIEW_ONCE_WRAPPERS), "aWrapperOfNextYear"])
def test_any_wrapper_is_taken_off(wrapper: str) -> None:
    content = classify({wrapper: {"message": {"imageMessage": make_file(caption="c")}}})
    assert isinstance(content, Content)
    assert (content.kind, content.text) == ("image", "c")


def test_wrappers_are_taken_off_to_a_limit() -> None:
    message: dict[str, Any] = {"conversation": "deep"}
    for _ in range(MAX_WRAPPERS):
        message = {"ephemeralMessage": {"message": message}}
    assert classify(message) == Content(kind="text", text="deep")
    assert classify({"ephemeralMessage": {"message": message}}) == Content(kind="unknown")


def test_wrappers_are_named_from_the_outside_in() -> None:
    field, inner, wrappers = unwrap(
        {"ephemeralMessage": {"message": {"viewOnceMessage": {"message": {"conversation": "x"}}}}}
    )
    assert (field, inner, wrappers) == ("conversation", {"conversation": "x"}, ("ephemeralMessage", "viewOnceMessage"))


NOISE: dict[str, tuple[dict[str, Any], int, str]] = {
    "a sender key alone": ({"senderKeyDistributionMessage": {"groupId": "g"}}, 1, "key_share"),
    "a sender key with an envelope": ({"senderKeyDistributionMessage": {}, "messageContextInfo": {}}, 1, "key_share"),
    "a history sync": ({"protocolMessage": {"type": "HISTORY_SYNC_NOTIFICATION"}}, 1, "history"),
    "app state keys": ({"protocolMessage": {"type": "APP_STATE_SYNC_KEY_SHARE"}}, 1, "key_share"),
    "an answer of the phone": (
        {"protocolMessage": {"type": "PEER_DATA_OPERATION_REQUEST_RESPONSE_MESSAGE"}},
        1,
        "protocol",
    ),
    "noise inside a wrapper": (
        {"deviceSentMessage": {"message": {"protocolMessage": {"type": "APP_STATE_SYNC_KEY_REQUEST"}}}},
        1,
        "protocol",
    ),
    "sticker synchronisation": ({"stickerSyncRmrMessage": {"filehash": []}}, 1, "protocol"),
}


@pytest.mark.parametrize(("message", "ciphertexts", "reason"), NOISE.values(), ids=NOISE.keys())
def test_noise_is_no_message(message: dict[str, Any], ciphertexts: int, reason: str) -> None:
    assert classify(message, ciphertexts) == reason


def test_a_key_share_beside_an_unreadable_second_part_is_an_unknown_message() -> None:
    assert classify({"senderKeyDistributionMessage": {"groupId": "g"}}, 2) == Content(kind="unknown")


@pytest.mark.parametrize(
    "message",
    [
        {"reactionMessage": {"key": TARGET, "text": "👍"}},
        {"protocolMessage": {"type": "REVOKE", "key": TARGET}},
        {"protocolMessage": {"type": "MESSAGE_EDIT", "key": TARGET, "editedMessage": {"conversation": "n"}}},
        {"pollUpdateMessage": {"pollCreationMessageKey": TARGET}},
        {"pinInChatMessage": {"key": TARGET}},
        {"commentMessage": {"targetMessageKey": TARGET, "message": {"conversation": "n"}}},
        {"secretEncryptedMessage": {"targetMessageKey": TARGET, "secretEncType": 2}},
    ],
    ids=lambda message: str(next(iter(message))),
)
def test_a_message_about_another_names_it(message: dict[str, Any]) -> None:
    content = classify(message)
    assert isinstance(content, Content)
    assert content.target == TARGET


def test_of_several_contents_the_order_of_the_table_decides_not_the_senders() -> None:
    both = {"reactionMessage": {"key": TARGET, "text": "x"}, "extendedTextMessage": {"text": "real"}}
    assert classify(both) == Content(kind="text", text="real")
    assert classify(dict(reversed(both.items()))) == Content(kind="text", text="real")


def test_a_long_poll_is_cut_to_a_bounded_number_of_lines() -> None:
    options = [{"optionName": str(n)} for n in range(10_000)]
    content = classify({"pollCreationMessage": {"name": "?", "options": options}})
    assert isinstance(content, Content)
    assert content.text is not None
    assert len(content.text.splitlines()) == 64


FILE = make_file(caption="c")


@pytest.mark.parametrize(
    ("message", "expected", "why"),
    [
        ({"imageMessage": FILE, "conversation": "hi"}, ("text", "hi"), "words come before all"),
        ({"imageMessage": FILE, "conversation": ""}, ("image", "c"), "no words, no text"),
        ({"conversation": 7}, ("unknown", None), "a number is no text"),
        ({"ephemeralMessage": {"message": "text"}}, ("unknown", None), "a wrapper around nothing"),
        ({"protocolMessage": {}}, ("unknown", None), "neither a type nor a target"),
        (
            {"protocolMessage": {"type": "REVOKE", "key": TARGET, "editedMessage": {"conversation": "x"}}},
            ("revoke", None),
            "only an edit has a new text",
        ),
        ({"protocolMessage": {"type": "MESSAGE_EDIT", "editedMessage": "x"}}, ("edit", None), "an edit to nothing"),
        ({"commentMessage": {"message": "x"}}, ("comment", None), "a comment without words"),
        ({"commentMessage": {"message": {}}}, ("comment", None), "or with nothing at all"),
        (
            {"commentMessage": {"message": {"commentMessage": {"message": {"conversation": "x"}}}}},
            ("comment", None),
            "",
        ),
        (
            {"pollCreationMessage": {"name": "q", "message": {"conversation": "x"}}},
            ("poll", "q"),
            "only a comment has its words in a message",
        ),
        ({"secretEncryptedMessage": {"secretEncType": 1}}, ("edit", None), "an event's edit, by number"),
        ({"secretEncryptedMessage": {"secretEncType": 2}}, ("edit", None), "a message's edit, by number"),
        ({"secretEncryptedMessage": {"secretEncType": 3}}, ("unknown", None), "something else"),
    ],
)
def test_at_the_edges_of_the_rules(message: dict[str, Any], expected: tuple[str, str | None], why: str) -> None:
    content = classify(message)
    assert isinstance(content, Content)
    assert (content.kind, content.text) == expected, why


@pytest.mark.parametrize(
    "message",
    [
        {"protocolMessage": {"type": "REVOKE", "key": "x"}},
        {"protocolMessage": {"type": "EPHEMERAL_SETTING", "key": TARGET}},
        {"reactionMessage": {"key": "x", "text": "y"}},
        {"conversation": "about nothing"},
    ],
)
def test_what_names_no_message_has_no_target(message: dict[str, Any]) -> None:
    content = classify(message)
    assert isinstance(content, Content)
    assert content.target is None


def test_both_kinds_of_key_share_together_are_a_key_share() -> None:
    both: dict[str, Any] = {"senderKeyDistributionMessage": {}, "fastRatchetKeySenderKeyDistributionMessage": {}}
    assert classify(both) == "key_share"


@pytest.mark.parametrize(
    ("message", "media_type"),
    [
        ({"buttonsMessage": {"contentText": "Go?", "documentMessage": FILE}}, "document"),
        ({"productMessage": {"product": {"productImage": FILE}}}, "image"),
        ({"commentMessage": {"message": {"videoMessage": FILE}}}, "video"),
        ({"audioMessage": FILE}, "audio"),
    ],
)
def test_a_file_inside_brings_its_own_json_and_its_own_keys(message: dict[str, Any], media_type: str) -> None:
    content = classify(message)
    assert isinstance(content, Content)
    assert content.media is not None
    assert (content.media.body, content.media.media_type) == (FILE, media_type)
