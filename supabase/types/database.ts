// Made by `make types` from the database's catalogue.
export type Json = string | number | boolean | null | { [key: string]: Json | undefined } | Json[]

export type Database = {
  public: {
    Tables: {
      audit_log: {
        Row: {
          at: string
          event: string
          id: number
          payload: Json
          session_id: string
        }
        Insert: {
          at?: string
          event: string
          id?: never
          payload?: Json
          session_id?: string
        }
        Update: {
          at?: string
          event?: string
          id?: never
          payload?: Json
          session_id?: string
        }
        Relationships: [
        ]
      }
      group_members: {
        Row: {
          as_of: string
          group_id: number
          joined_at: string | null
          left_at: string | null
          member: string
          role: string
          session_id: string
        }
        Insert: {
          as_of: string
          group_id: number
          joined_at?: string | null
          left_at?: string | null
          member: string
          role?: string
          session_id: string
        }
        Update: {
          as_of?: string
          group_id?: number
          joined_at?: string | null
          left_at?: string | null
          member?: string
          role?: string
          session_id?: string
        }
        Relationships: [
          {
            foreignKeyName: 'group_members_group_id_fkey'
            columns: ['group_id']
            isOneToOne: false
            referencedRelation: 'groups'
            referencedColumns: ['id']
          },
        ]
      }
      groups: {
        Row: {
          admins: string[] | null
          created_at: string
          id: number
          left_at: string | null
          monitor: boolean
          name: string | null
          session_id: string
          updated_at: string
          wa_group_id: string
        }
        Insert: {
          admins?: string[] | null
          created_at?: string
          id?: never
          left_at?: string | null
          monitor?: boolean
          name?: string | null
          session_id?: string
          updated_at?: string
          wa_group_id: string
        }
        Update: {
          admins?: string[] | null
          created_at?: string
          id?: never
          left_at?: string | null
          monitor?: boolean
          name?: string | null
          session_id?: string
          updated_at?: string
          wa_group_id?: string
        }
        Relationships: [
          {
            foreignKeyName: 'groups_session_id_fkey'
            columns: ['session_id']
            isOneToOne: false
            referencedRelation: 'wa_sessions'
            referencedColumns: ['id']
          },
        ]
      }
      media: {
        Row: {
          bytes: number
          created_at: string
          duration_s: number | null
          height: number | null
          id: number
          mime: string
          sha256: string
          storage_path: string
          width: number | null
        }
        Insert: {
          bytes: number
          created_at?: string
          duration_s?: number | null
          height?: number | null
          id?: never
          mime: string
          sha256: string
          storage_path: string
          width?: number | null
        }
        Update: {
          bytes?: number
          created_at?: string
          duration_s?: number | null
          height?: number | null
          id?: never
          mime?: string
          sha256?: string
          storage_path?: string
          width?: number | null
        }
        Relationships: [
        ]
      }
      message_changes: {
        Row: {
          at: string
          change_id: number
          deleted: boolean
          message_id: number
          session_id: string
        }
        Insert: {
          at?: string
          change_id: number
          deleted?: boolean
          message_id: number
          session_id: string
        }
        Update: {
          at?: string
          change_id?: number
          deleted?: boolean
          message_id?: number
          session_id?: string
        }
        Relationships: [
        ]
      }
      message_edits: {
        Row: {
          at: string
          edit_msg_id: string
          id: number
          message_id: number
          session_id: string
          text: string | null
        }
        Insert: {
          at: string
          edit_msg_id: string
          id?: never
          message_id: number
          session_id: string
          text?: string | null
        }
        Update: {
          at?: string
          edit_msg_id?: string
          id?: never
          message_id?: number
          session_id?: string
          text?: string | null
        }
        Relationships: [
          {
            foreignKeyName: 'message_edits_message_id_fkey'
            columns: ['message_id']
            isOneToOne: false
            referencedRelation: 'messages'
            referencedColumns: ['id']
          },
          {
            foreignKeyName: 'message_edits_session_id_fkey'
            columns: ['session_id']
            isOneToOne: false
            referencedRelation: 'wa_sessions'
            referencedColumns: ['id']
          },
        ]
      }
      message_reactions: {
        Row: {
          at: string
          emoji: string | null
          message_id: number
          sender: string
          session_id: string
          wa_msg_id: string
        }
        Insert: {
          at: string
          emoji?: string | null
          message_id: number
          sender: string
          session_id: string
          wa_msg_id: string
        }
        Update: {
          at?: string
          emoji?: string | null
          message_id?: number
          sender?: string
          session_id?: string
          wa_msg_id?: string
        }
        Relationships: [
          {
            foreignKeyName: 'message_reactions_message_id_fkey'
            columns: ['message_id']
            isOneToOne: false
            referencedRelation: 'messages'
            referencedColumns: ['id']
          },
          {
            foreignKeyName: 'message_reactions_session_id_fkey'
            columns: ['session_id']
            isOneToOne: false
            referencedRelation: 'wa_sessions'
            referencedColumns: ['id']
          },
        ]
      }
      messages: {
        Row: {
          album_id: number | null
          blanked: boolean
          chat_id: string
          content: Json | null
          edit_msg_id: string | null
          edited_at: string | null
          expires_at: string | null
          file_name: string | null
          forward_score: number
          forwarded: boolean
          from_me: boolean
          group_id: number
          id: number
          kind: string
          lost_at: string | null
          media_id: number | null
          media_status: string | null
          mention_count: number
          mentions: string[] | null
          parent_id: number | null
          pending: boolean
          push_name: string | null
          quoted_id: number | null
          quoted_msg_id: string | null
          quoted_sender: string | null
          raw: Json
          received_at: string
          rendition: string | null
          rendition_of: number | null
          revoke_claimed_at: string | null
          revoked_at: string | null
          revoked_by: string | null
          sender: string
          sender_alt: string | null
          session_id: string
          text: string | null
          ts: string
          wa_msg_id: string
        }
        Insert: {
          album_id?: number | null
          blanked?: boolean
          chat_id: string
          content?: Json | null
          edit_msg_id?: string | null
          edited_at?: string | null
          expires_at?: string | null
          file_name?: string | null
          forward_score?: number
          forwarded?: boolean
          from_me?: boolean
          group_id: number
          id?: never
          kind: string
          lost_at?: string | null
          media_id?: number | null
          media_status?: string | null
          mention_count?: number
          mentions?: string[] | null
          parent_id?: number | null
          pending?: boolean
          push_name?: string | null
          quoted_id?: number | null
          quoted_msg_id?: string | null
          quoted_sender?: string | null
          raw?: Json
          received_at?: string
          rendition?: string | null
          rendition_of?: number | null
          revoke_claimed_at?: string | null
          revoked_at?: string | null
          revoked_by?: string | null
          sender: string
          sender_alt?: string | null
          session_id?: string
          text?: string | null
          ts: string
          wa_msg_id: string
        }
        Update: {
          album_id?: number | null
          blanked?: boolean
          chat_id?: string
          content?: Json | null
          edit_msg_id?: string | null
          edited_at?: string | null
          expires_at?: string | null
          file_name?: string | null
          forward_score?: number
          forwarded?: boolean
          from_me?: boolean
          group_id?: number
          id?: never
          kind?: string
          lost_at?: string | null
          media_id?: number | null
          media_status?: string | null
          mention_count?: number
          mentions?: string[] | null
          parent_id?: number | null
          pending?: boolean
          push_name?: string | null
          quoted_id?: number | null
          quoted_msg_id?: string | null
          quoted_sender?: string | null
          raw?: Json
          received_at?: string
          rendition?: string | null
          rendition_of?: number | null
          revoke_claimed_at?: string | null
          revoked_at?: string | null
          revoked_by?: string | null
          sender?: string
          sender_alt?: string | null
          session_id?: string
          text?: string | null
          ts?: string
          wa_msg_id?: string
        }
        Relationships: [
          {
            foreignKeyName: 'messages_album_id_fkey'
            columns: ['album_id']
            isOneToOne: false
            referencedRelation: 'messages'
            referencedColumns: ['id']
          },
          {
            foreignKeyName: 'messages_group_id_fkey'
            columns: ['group_id']
            isOneToOne: false
            referencedRelation: 'groups'
            referencedColumns: ['id']
          },
          {
            foreignKeyName: 'messages_media_id_fkey'
            columns: ['media_id']
            isOneToOne: false
            referencedRelation: 'media'
            referencedColumns: ['id']
          },
          {
            foreignKeyName: 'messages_parent_id_fkey'
            columns: ['parent_id']
            isOneToOne: false
            referencedRelation: 'messages'
            referencedColumns: ['id']
          },
          {
            foreignKeyName: 'messages_quoted_id_fkey'
            columns: ['quoted_id']
            isOneToOne: false
            referencedRelation: 'messages'
            referencedColumns: ['id']
          },
          {
            foreignKeyName: 'messages_rendition_of_fkey'
            columns: ['rendition_of']
            isOneToOne: false
            referencedRelation: 'messages'
            referencedColumns: ['id']
          },
          {
            foreignKeyName: 'messages_session_id_fkey'
            columns: ['session_id']
            isOneToOne: false
            referencedRelation: 'wa_sessions'
            referencedColumns: ['id']
          },
        ]
      }
      people: {
        Row: {
          named_at: string | null
          number: string | null
          push_name: string | null
          sender: string
          session_id: string
        }
        Insert: {
          named_at?: string | null
          number?: string | null
          push_name?: string | null
          sender: string
          session_id: string
        }
        Update: {
          named_at?: string | null
          number?: string | null
          push_name?: string | null
          sender?: string
          session_id?: string
        }
        Relationships: [
        ]
      }
      runtime_flags: {
        Row: {
          handled_at: string | null
          handled_value: Json | null
          key: string
          session_id: string | null
          value: Json
        }
        Insert: {
          handled_at?: string | null
          handled_value?: Json | null
          key: string
          session_id?: never
          value?: Json
        }
        Update: {
          handled_at?: string | null
          handled_value?: Json | null
          key?: string
          session_id?: never
          value?: Json
        }
        Relationships: [
        ]
      }
      session_members: {
        Row: {
          created_at: string
          groups: number[] | null
          role: string
          session_id: string
          user_id: string
        }
        Insert: {
          created_at?: string
          groups?: number[] | null
          role?: string
          session_id: string
          user_id: string
        }
        Update: {
          created_at?: string
          groups?: number[] | null
          role?: string
          session_id?: string
          user_id?: string
        }
        Relationships: [
          {
            foreignKeyName: 'session_members_session_id_fkey'
            columns: ['session_id']
            isOneToOne: false
            referencedRelation: 'wa_sessions'
            referencedColumns: ['id']
          },
        ]
      }
      wa_sessions: {
        Row: {
          complete_to: string | null
          created_at: string
          detail: Json
          host_since: string | null
          id: string
          lease_expires_at: string | null
          owner_id: string | null
          search_language: string
          settings: Json
          status: string
          updated_at: string
          wa_name: string | null
          wa_number: string | null
          wanted: boolean
        }
        Insert: {
          complete_to?: string | null
          created_at?: string
          detail?: Json
          host_since?: string | null
          id?: string
          lease_expires_at?: string | null
          owner_id?: string | null
          search_language?: string
          settings?: Json
          status?: string
          updated_at?: string
          wa_name?: string | null
          wa_number?: string | null
          wanted?: boolean
        }
        Update: {
          complete_to?: string | null
          created_at?: string
          detail?: Json
          host_since?: string | null
          id?: string
          lease_expires_at?: string | null
          owner_id?: string | null
          search_language?: string
          settings?: Json
          status?: string
          updated_at?: string
          wa_name?: string | null
          wa_number?: string | null
          wanted?: boolean
        }
        Relationships: [
        ]
      }
    }
    Views: {
      poll_votes: {
        Row: {
          at: string | null
          choices: Json | null
          poll_id: number | null
          push_name: string | null
          sender: string | null
          session_id: string | null
        }
        Relationships: [
        ]
      }
    }
    Functions: {
      changes: {
        Args: {
          p_limit?: number | null
          p_session: string | null
          p_since: string | null
        }
        Returns: Json
      }
      coverage: {
        Args: {
          p_from?: string | null
          p_group: string | null
          p_limit?: number | null
          p_session: string | null
          p_to?: string | null
        }
        Returns: Json
      }
      my_coverage: {
        Args: {
          p_from?: string | null
          p_group: string | null
          p_limit?: number | null
          p_session: string | null
          p_to?: string | null
        }
        Returns: Json
      }
      my_search: {
        Args: {
          p_cursor?: string | null
          p_filter?: Json | null
          p_limit?: number | null
          p_query: string | null
          p_session: string | null
          p_sort?: string | null
        }
        Returns: Json
      }
      my_sessions: {
        Args: never
        Returns: Json
      }
      search_messages: {
        Args: {
          p_cursor?: string | null
          p_filter?: Json | null
          p_limit?: number | null
          p_query: string | null
          p_session: string | null
          p_sort?: string | null
        }
        Returns: Json
      }
    }
    Enums: {
      [_ in never]: never
    }
    CompositeTypes: {
      [_ in never]: never
    }
  }
}
